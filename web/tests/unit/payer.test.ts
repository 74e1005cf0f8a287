import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Payer, type PayerListener } from '../../src/payer.ts';
import { readTimeline } from '../../src/timeline.ts';
import type { Outcome, Wallet } from '../../src/wallet.ts';
import type { Offer } from '../../src/wire.ts';
import { mint, NODE_ID } from './mint.ts';

const FILM = Array.from({ length: 60 }, (_, n) => `#EXTINF:4.000000,\n${n}.m4s`).join('\n');
const NOW = Math.floor(Date.now() / 1000);

interface Sold extends Offer {
  preimage: string;
}

function sell(...segments: number[]): Sold {
  return sellUntil(NOW + 600, ...segments);
}

function sellUntil(expiresAt: number, ...segments: number[]): Sold {
  const preimage = randomBytes(32);
  const paymentHash = createHash('sha256').update(preimage).digest('hex');
  const amountMsat = BigInt(segments.length) * 8_000n;
  const invoice = mint({ amountMsat, paymentHash, createdAt: expiresAt - 600, expirySeconds: 600 });
  return { segments, amountMsat, paymentHash, invoice, expiresAt, preimage: preimage.toString('hex') };
}

/** A wallet that answers as told, in order, and a payer that uses it; `log` holds all that happened. */
function scene(...answers: ((sold: Sold) => Outcome | Promise<Outcome>)[]) {
  const log: string[] = [];
  const sold = new Map<string, Sold>();
  const wallet: Wallet = {
    name: 'fake',
    enable: async () => {},
    balanceMsat: async () => null,
    pay: async (invoice) => {
      const offer = sold.get(invoice)!;
      log.push(`pay ${offer.segments}`);
      return (answers.shift() ?? pays)(offer);
    },
  };
  const listener: PayerListener = {
    paid: ({ segments }) => log.push(`paid ${segments}`),
    changed: () => {},
    byHand: (offer) => log.push(`by hand ${offer?.segments ?? 'nothing'}`),
    stopped: (words) => log.push(`stopped: ${words}`),
    resolved: () => log.push('resolved'),
    trouble: (words) => words && log.push(`trouble: ${words}`),
    refused: (words) => log.push(`refused: ${words}`),
    failed: (hash) => log.push(`failed ${[...sold.values()].find((each) => each.paymentHash === hash)?.segments}`),
  };
  const tariff = { msatPerSecond: 2_000n, granularityMsat: 1_000n, firstPaidSegment: 2 };
  const terms = { payee: NODE_ID, tariff, timeline: readTimeline(FILM), reach: 3 };
  const make = (own: Wallet | null) => new Payer(own, terms, () => 0, listener);
  const payer = make(wallet);
  const offer = (each: Sold, to = payer) => {
    sold.set(each.invoice, each);
    to.offered(each);
  };
  return { log, payer, offer, make };
}

const pays = ({ preimage, amountMsat }: Sold): Outcome => ({
  kind: 'paid',
  payment: { preimage, amountMsat, feeMsat: 0n },
});
const fails = (): Outcome => ({ kind: 'failed', words: 'No route.' });
const silent = (): Outcome => ({ kind: 'unknown', words: 'No answer.' });
const declines = (): Outcome => ({ kind: 'declined' });
const settle = () => sleep(20);

test('each invoice is paid once, however often it is sent', async () => {
  const { log, offer } = scene();
  const [two, three] = [sell(2), sell(3)];
  for (const each of [two, three, two, three]) offer(each);
  await settle();
  offer(two);
  await settle();
  assert.deepEqual(log, ['pay 2', 'paid 2', 'pay 3', 'paid 3']);
});

test('one payment is in flight at a time', async () => {
  let release = () => {};
  const slow = (sold: Sold) => new Promise<Outcome>((resolve) => (release = () => resolve(pays(sold))));
  const { log, offer } = scene(slow);
  offer(sell(2));
  offer(sell(3));
  await settle();
  assert.deepEqual(log, ['pay 2']);
  release();
  await settle();
  assert.deepEqual(log, ['pay 2', 'paid 2', 'pay 3', 'paid 3']);
});

test('a failed payment is reported, and its fresh invoice paid after a pause', async () => {
  const { log, offer } = scene(fails);
  offer(sell(2));
  await settle();
  offer(sell(2));
  await settle();
  assert.deepEqual(log, ['pay 2', 'failed 2', 'trouble: No route. Trying again.']);
  await sleep(1_100);
  assert.deepEqual(log.slice(3), ['pay 2', 'paid 2']);
});

test('a payment of unknown outcome stops all paying, and is not paid again with another invoice', async () => {
  const { log, payer, offer } = scene(silent);
  const two = sell(2);
  offer(two);
  offer(sell(3));
  offer(sell(2));
  await settle();
  assert.equal(log.length, 2);
  assert.match(log[1]!, /^stopped: It is not known/);
  payer.settled(two.paymentHash);
  await settle();
  assert.deepEqual(log.slice(2, 6), ['paid 2', 'resolved', 'pay 3', 'paid 3']);
  assert.match(log[6]!, /refused: .* is paid or in another/);
  assert.equal(log.length, 7);
});

test('when the viewer resumes, the same invoice is tried again, not another', async () => {
  const { log, payer, offer } = scene(silent);
  offer(sell(2));
  await settle();
  payer.setPaused(false);
  offer(sell(2));
  await settle();
  assert.deepEqual(log.slice(2, 4), ['pay 2', 'paid 2']);
  assert.match(log[4]!, /refused: .* is paid or in another/);
});

test('a second try that fails is still of unknown outcome, and never reported as failed', async () => {
  const { log, payer, offer } = scene(silent, fails);
  offer(sell(2));
  await settle();
  payer.setPaused(false);
  await settle();
  assert.equal(log[2], 'pay 2');
  assert.match(log[3]!, /^stopped: It is not known/);
  assert.equal(log.length, 4);
});

test('a wallet with a wrong preimage is not believed', async () => {
  const { log, offer } = scene((sold) => pays({ ...sold, preimage: '00'.repeat(32) }));
  offer(sell(2));
  await settle();
  assert.match(log[1]!, /proof of payment is wrong/);
});

test("the server's word counts where the wallet's answer was lost", async () => {
  const { log, payer, offer } = scene((sold) => {
    payer.settled(sold.paymentHash);
    return silent();
  });
  offer(sell(2));
  await settle();
  assert.deepEqual(log, ['pay 2', 'paid 2']);
});

test('nothing is paid while the viewer has stopped', async () => {
  const { log, payer, offer } = scene();
  payer.setPaused(true);
  offer(sell(2));
  await settle();
  assert.deepEqual(log, []);
  payer.setPaused(false);
  await settle();
  assert.deepEqual(log, ['pay 2', 'paid 2']);
});

test('after a seek only what lies there is paid', async () => {
  const { log, payer, offer } = scene();
  payer.sought(40);
  for (const n of [2, 3, 40]) offer(sell(n));
  await settle();
  assert.deepEqual(log, ['pay 40', 'paid 40']);
  payer.served(40);
  offer(sell(41));
  await settle();
  assert.deepEqual(log.slice(2), ['pay 41', 'paid 41']);
});

test('what was paid before a seek may be paid anew after it, because its money went elsewhere', async () => {
  const { log, payer, offer } = scene();
  offer(sell(2));
  await settle();
  payer.sought(40);
  payer.served(40);
  payer.arrived(40);
  payer.sought(2);
  offer(sell(2));
  await settle();
  assert.deepEqual(log, ['pay 2', 'paid 2', 'pay 2', 'paid 2']);
});

test('without a wallet the invoice is shown, until it is paid', () => {
  const { log, offer, make } = scene();
  const payer = make(null);
  const two = sell(2);
  offer(two, payer);
  payer.settled(two.paymentHash);
  assert.deepEqual(log, ['by hand 2', 'paid 2', 'by hand nothing']);
});

test('a declined invoice is never replaced: resuming asks with the same one', async () => {
  const { log, payer, offer } = scene(declines);
  offer(sell(2));
  await settle();
  offer(sell(2));
  payer.setPaused(false);
  await settle();
  assert.match(log[1]!, /^stopped: You declined/);
  assert.deepEqual(log.slice(2, 4), ['pay 2', 'paid 2']);
  assert.match(log[4]!, /refused: .* is paid or in another/);
  assert.ok(!log.some((line) => line.startsWith('failed')));
});

test('a refusal after a try of unknown outcome does not free its segment either', async () => {
  const { log, payer, offer } = scene(silent, declines, fails);
  offer(sell(2));
  await settle();
  payer.setPaused(false);
  await settle();
  payer.setPaused(false);
  await settle();
  assert.deepEqual(log.filter((line) => line.startsWith('pay')), ['pay 2', 'pay 2', 'pay 2']);
  assert.match(log.at(-1)!, /^stopped: It is not known/);
  assert.ok(!log.some((line) => line.startsWith('failed')));
});

test('after the end no queued invoice is paid, and what is under way is still booked', async () => {
  let release = () => {};
  const slow = (sold: Sold) => new Promise<Outcome>((resolve) => (release = () => resolve(pays(sold))));
  const { log, payer, offer } = scene(slow);
  offer(sell(2));
  offer(sell(3));
  payer.ended();
  release();
  await settle();
  offer(sell(4));
  payer.setPaused(true);
  payer.setPaused(false);
  payer.awaited(3);
  payer.served(2);
  await settle();
  assert.deepEqual(log, ['pay 2', 'paid 2']);
});

test('an end that finds the payer waiting for its next try stays the end', async () => {
  const { log, payer, offer } = scene(fails);
  offer(sell(2));
  await settle();
  offer(sell(2));
  payer.ended();
  await sleep(1_100);
  assert.deepEqual(log, ['pay 2', 'failed 2', 'trouble: No route. Trying again.']);
});

test('a payment that fails after the end is neither reported nor tried again', async () => {
  const { log, payer, offer } = scene(async () => (payer.ended(), fails()));
  offer(sell(2));
  await settle();
  assert.deepEqual(log, ['pay 2']);
});

test('without a wallet the end takes the invoice away', () => {
  const { log, offer, make } = scene();
  const payer = make(null);
  offer(sell(2), payer);
  payer.ended();
  assert.deepEqual(log, ['by hand 2', 'by hand nothing']);
});

test('what the viewer stopped himself goes on only when he says so', async () => {
  const { log, payer, offer } = scene((sold) => {
    payer.setPaused(true);
    setTimeout(() => payer.settled(sold.paymentHash), 5);
    return silent();
  });
  offer(sell(2));
  offer(sell(3));
  await settle();
  assert.match(log[1]!, /^stopped: It is not known/);
  assert.deepEqual(log.slice(2), ['paid 2']);
});

test('a wallet that stays silent does not hold up the film once the server has its money', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
  const { log, payer, offer } = scene(() => new Promise<Outcome>(() => {}));
  const two = sell(2);
  offer(two);
  offer(sell(3));
  payer.settled(two.paymentHash);
  await turn();
  assert.deepEqual(log, ['pay 2']);
  t.mock.timers.tick(5_000);
  await turn();
  assert.deepEqual(log, ['pay 2', 'paid 2', 'pay 3', 'paid 3']);
});

test('the segment that the player waits for is paid, though the stream left out how it got there', async () => {
  const { log, payer, offer } = scene();
  payer.sought(40);
  offer(sell(50));
  await settle();
  assert.deepEqual(log, []);
  payer.awaited(50);
  await settle();
  assert.deepEqual(log, ['pay 50', 'paid 50']);
});

test('an announced expiry that is not the invoice\'s own is refused', async () => {
  const { log, offer } = scene();
  offer({ ...sell(2), expiresAt: NOW + 60 });
  await settle();
  assert.match(log[0]!, /refused: .* expires at another time/);
});

test('an invoice that grew too old while the viewer was away is passed over without a word', async () => {
  const { log, payer, offer } = scene();
  offer(sell(2));
  await settle();
  payer.setPaused(true);
  offer(sellUntil(NOW - 1, 3));
  offer(sell(3));
  payer.setPaused(false);
  await settle();
  assert.deepEqual(log, ['pay 2', 'paid 2', 'pay 3', 'paid 3']);
});

test('a refusal may follow a try that is still under way, so a failure after it proves nothing', async () => {
  const { log, payer, offer } = scene(declines, fails);
  offer(sell(2));
  await settle();
  payer.setPaused(false);
  await settle();
  assert.match(log.at(-1)!, /^stopped: It is not known/);
  assert.ok(!log.some((line) => line.startsWith('failed')));
});

/** The budget in these is three segments, as nothing was watched yet. */
const paidFor = (log: string[]) => log.filter((line) => line.startsWith('paid')).join();

test('what may have been paid counts as spent while it is queued again', async () => {
  const { log, payer, offer } = scene(silent);
  offer(sell(2));
  await settle();
  payer.sought(40);
  payer.setPaused(false);
  for (const n of [40, 41, 42]) offer(sell(n));
  await settle();
  payer.ended();
  assert.equal(paidFor(log), 'paid 40,paid 41');
});

test('what may have been paid counts as spent when its segment was delivered meanwhile', async () => {
  const { log, payer, offer } = scene(silent);
  offer(sell(2));
  await settle();
  payer.served(2);
  payer.setPaused(false);
  for (const n of [3, 4, 5]) offer(sell(n));
  await settle();
  payer.ended();
  assert.equal(paidFor(log), 'paid 3,paid 4');
});

test('what may have been paid counts as spent when it expired before its next try', async (t) => {
  t.mock.timers.enable({ apis: ['Date'], now: NOW * 1000 });
  const { log, payer, offer } = scene(silent);
  offer(sell(2));
  await settle();
  payer.sought(40);
  payer.setPaused(false);
  t.mock.timers.setTime((NOW + 700) * 1000);
  payer.sought(2);
  for (const n of [2, 3, 4]) offer(sellUntil(NOW + 1_300, n));
  await settle();
  payer.ended();
  assert.equal(paidFor(log), 'paid 2,paid 3');
});
