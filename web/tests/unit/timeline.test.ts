import assert from 'node:assert/strict';
import { test } from 'node:test';
import { dearestSegment, firstPaidSegment, firstRendition, readTimeline, segmentPrice } from '../../src/timeline.ts';

const media = (...durations: string[]) =>
  ['#EXTM3U', '#EXT-X-TARGETDURATION:5', ...durations.flatMap((each, n) => [`#EXTINF:${each},`, `${n}.m4s`])].join('\n');

const tariff = (msatPerSecond: bigint, firstPaid = 0, granularityMsat = 1_000n) => ({
  msatPerSecond,
  granularityMsat,
  firstPaidSegment: firstPaid,
});

test('six decimals of a second give the exact ticks back', () => {
  for (const ticks of [1n, 3_003n, 90_090n, 360_000n, 360_360n, 375_375n, 364_571n]) {
    const micros = (ticks * 1_000_000n + 45_000n) / 90_000n;
    const text = `${micros / 1_000_000n}.${(micros % 1_000_000n).toString().padStart(6, '0')}`;
    assert.deepEqual(readTimeline(media(text)).boundaries, [0n, ticks]);
  }
});

test('durations with fewer decimals, with a title or with a carriage return are read too', () => {
  assert.deepEqual(readTimeline('#EXTINF:4,\r\n0.m4s\r\n#EXTINF:0.5,one\r\n1.m4s\r\n').boundaries, [0n, 360_000n, 405_000n]);
});

test('a playlist that tells no durations is no timeline', () => {
  assert.throws(() => readTimeline('#EXTM3U\n'));
  assert.throws(() => readTimeline('#EXTINF:nan,\n0.m4s\n'));
  assert.throws(() => readTimeline('#EXTINF:-4,\n0.m4s\n'));
});

test('the first rendition is the first stream, not the first comment', () => {
  const master = '#EXTM3U\n#EXT-X-VERSION:7\n\n#EXT-X-STREAM-INF:BANDWIDTH=1\n# a comment\n/s/x/720/index.m3u8\n';
  assert.equal(firstRendition(master), '/s/x/720/index.m3u8');
  assert.throws(() => firstRendition('#EXTM3U\n'));
});

test('whole seconds at a whole price cost their product', () => {
  const timeline = readTimeline(media('4.000000', '4.000000', '4.000000'));
  for (const n of [0, 1, 2]) assert.equal(segmentPrice(timeline, tariff(2_000n), n), 8_000n);
  assert.equal(segmentPrice(timeline, tariff(2_000n), 3), null);
});

test('roundings do not drift: a run costs its exact price and at most one granule', () => {
  const timeline = readTimeline(media(...Array<string>(500).fill('4.004000')));
  let total = 0n;
  for (let n = 0; n < 500; n += 1) total += segmentPrice(timeline, tariff(333n), n)!;
  const exact = (500n * 360_360n * 333n) / 90_000n;
  assert.ok(total >= exact && total <= exact + 1_000n, `${total} against ${exact}`);
});

test('the price is counted from the start of the first paid segment', () => {
  const timeline = readTimeline(media('4.004000', '4.004000', '4.004000'));
  // 4.004 s at 300 msat/s are 1201.2 msat, 8.008 s are 2402.4: in whole satoshis 2 and then 1 more.
  assert.equal(segmentPrice(timeline, tariff(300n, 1), 0), 0n);
  assert.equal(segmentPrice(timeline, tariff(300n, 1), 1), 2_000n);
  assert.equal(segmentPrice(timeline, tariff(300n, 1), 2), 1_000n);
});

test('a short last segment still costs a granule', () => {
  const timeline = readTimeline(media('4.000000', '0.040000'));
  assert.equal(segmentPrice(timeline, tariff(250n), 0), 1_000n);
  assert.equal(segmentPrice(timeline, tariff(250n), 1), 1_000n);
});

test('a free film costs nothing', () => {
  assert.equal(segmentPrice(readTimeline(media('4.000000')), tariff(0n), 0), 0n);
});

test('the preview ends with the last segment that starts before its end', () => {
  const timeline = readTimeline(media('4.000000', '4.000000', '4.000000'));
  assert.equal(firstPaidSegment(timeline, 0), 0);
  assert.equal(firstPaidSegment(timeline, 4), 1);
  assert.equal(firstPaidSegment(timeline, 5), 2);
  assert.equal(firstPaidSegment(timeline, 60), 3);
});

test('the dearest segment bounds the others', () => {
  assert.equal(dearestSegment(readTimeline(media('4.000000', '6.000000', '1.000000')), tariff(1_000n)), 6_000n);
});
