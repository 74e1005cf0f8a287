// Where each segment lies, in 90 kHz ticks, and what it costs. Pure; PROTOCOL.md, "Money".
// The ticks are found again from the playlist, so that the page need not believe the server's sums.

export const TICKS_PER_SECOND = 90_000n;

/** Boundaries of segment n of a version: `[boundaries[n], boundaries[n + 1])`. */
export interface Timeline {
  boundaries: bigint[];
}

export interface Tariff {
  msatPerSecond: bigint;
  granularityMsat: bigint;
  /** Segments before it are the preview. */
  firstPaidSegment: number;
}

/** The address of the first rendition of a multivariant playlist. */
export function firstRendition(playlist: string): string {
  const lines = playlist.split(/\r?\n/);
  const at = lines.findIndex((line) => line.startsWith('#EXT-X-STREAM-INF:'));
  const address = at < 0 ? undefined : lines.slice(at + 1).find((line) => line !== '' && !line.startsWith('#'));
  if (!address) throw new Error('the playlist lists no rendition');
  return address;
}

/** EXTINF has six decimals, finer than a tick (11.1 µs), so that each duration rounds to its exact ticks. */
export function readTimeline(playlist: string): Timeline {
  const boundaries = [0n];
  for (const line of playlist.split(/\r?\n/)) {
    if (!line.startsWith('#EXTINF:')) continue;
    const match = /^#EXTINF:(\d+)(?:\.(\d{1,6}))?(?:,|$)/.exec(line);
    if (!match) throw new Error('the playlist has a duration that cannot be read');
    const micros = BigInt(match[1]!) * 1_000_000n + BigInt((match[2] ?? '').padEnd(6, '0'));
    const ticks = (micros * TICKS_PER_SECOND + 500_000n) / 1_000_000n;
    boundaries.push(boundaries.at(-1)! + ticks);
  }
  if (boundaries.length === 1) throw new Error('the playlist has no segments');
  return { boundaries };
}

export function segmentCount(timeline: Timeline): number {
  return timeline.boundaries.length - 1;
}

/** The first segment that starts at or after the end of the preview; the count of all where none does. */
export function firstPaidSegment(timeline: Timeline, previewSeconds: number): number {
  const preview = BigInt(Math.round(previewSeconds * Number(TICKS_PER_SECOND)));
  const starts = timeline.boundaries.slice(0, -1);
  const at = starts.findIndex((start) => start >= preview);
  return at < 0 ? starts.length : at;
}

/**
 * What segment `n` costs: the granule-rounded price of the way to its end less that to its start, both counted from
 * the first paid segment, and at least one granule. Null for a segment that does not exist.
 */
export function segmentPrice(timeline: Timeline, tariff: Tariff, n: number): bigint | null {
  const start = timeline.boundaries[n];
  const end = timeline.boundaries[n + 1];
  const origin = timeline.boundaries[tariff.firstPaidSegment];
  if (start === undefined || end === undefined) return null;
  if (n < tariff.firstPaidSegment || tariff.msatPerSecond === 0n || origin === undefined) return 0n;
  const granule = tariff.granularityMsat;
  const upTo = (ticks: bigint) => ceilDiv(ticks * tariff.msatPerSecond, TICKS_PER_SECOND * granule) * granule;
  const price = upTo(end - origin) - upTo(start - origin);
  return price > granule ? price : granule;
}

/** The dearest segment: the bound on what a window of so many segments may cost. */
export function dearestSegment(timeline: Timeline, tariff: Tariff): bigint {
  let dearest = 0n;
  for (let n = tariff.firstPaidSegment; n < segmentCount(timeline); n += 1) {
    const price = segmentPrice(timeline, tariff, n) ?? 0n;
    if (price > dearest) dearest = price;
  }
  return dearest;
}

function ceilDiv(a: bigint, b: bigint): bigint {
  return (a + b - 1n) / b;
}
