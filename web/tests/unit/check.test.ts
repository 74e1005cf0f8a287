import assert from 'node:assert/strict';
import { test } from 'node:test';
import { check, type Standing, type Terms } from '../../src/check.ts';
import { readTimeline } from '../../src/timeline.ts';
import type { Offer } from '../../src/wire.ts';
import { HASH, mint, NODE_ID, type Wanted } from './mint.ts';

const NOW = 1_700_000_000;
const FILM = Array.from({ length: 10 }, (_, n) => `#EXTINF:4.000000,\n${n}.m4s`).join('\n');

/** Two satoshis a second, 4 s a segment, the first two free: 8 satoshis each. */
const terms: Terms = {
  payee: NODE_ID,
  tariff: { msatPerSecond: 2_000n, granularityMsat: 1_000n, firstPaidSegment: 2 },
  timeline: readTimeline(FILM),
  reach: 3,
};

const fresh: Standing = {
  nowSeconds: NOW + 10,
  watchedMs: 0,
  spentMsat: 0n,
  undeliveredMsat: 0n,
  network: null,
  served: new Set(),
  open: new Set(),
};

function offer(change: Partial<Offer> = {}, wanted: Wanted = {}): Offer {
  const amountMsat = change.amountMsat ?? 8_000n;
  return {
    segments: [2],
    amountMsat,
    paymentHash: HASH,
    expiresAt: NOW + 600,
    invoice: mint({ amountMsat, createdAt: NOW, ...wanted }),
    ...change,
  };
}

function refused(words: RegExp, given: Offer, standing: Partial<Standing> = {}, otherTerms: Partial<Terms> = {}): void {
  const verdict = check(given, { ...terms, ...otherTerms }, { ...fresh, ...standing });
  assert.equal(verdict.kind, 'refuse');
  assert.match(verdict.kind === 'refuse' ? verdict.words : '', words);
}

test('an invoice that is in order is paid', () => {
  assert.equal(check(offer(), terms, fresh).kind, 'pay');
});

test('a bundle is paid at the sum of its segments', () => {
  assert.equal(check(offer({ segments: [2, 3, 4], amountMsat: 24_000n }), terms, fresh).kind, 'pay');
});

test('another signer is refused, also when the amount is right', () => {
  refused(/not signed/, offer({}, { key: new Uint8Array(32).fill(9) }));
});

test('another network than before is refused', () => {
  refused(/network/, offer(), { network: 'bc' });
  assert.equal(check(offer(), terms, { ...fresh, network: 'bcrt' }).kind, 'pay');
});

test('a millisatoshi too much or too little is refused', () => {
  refused(/by the agreed price/, offer({ amountMsat: 8_001n }));
  refused(/by the agreed price/, offer({ amountMsat: 7_999n }));
});

test('an amount other than announced is refused', () => {
  refused(/another amount/, offer({}, { amountMsat: 9_000n }));
});

test('an invoice without an amount is refused', () => {
  refused(/no amount/, offer({}, { prefix: 'lnbcrt' }));
});

test('another payment hash than announced is refused', () => {
  refused(/payment hash/, offer({ paymentHash: 'ff'.repeat(32) }));
});

test('an expired invoice is refused, and one about to expire', () => {
  refused(/expired/, offer(), { nowSeconds: NOW + 601 });
  refused(/expired/, offer(), { nowSeconds: NOW + 597 });
});

test('an invoice for nothing, for the preview or for what is not there is refused', () => {
  refused(/no segment/, offer({ segments: [] }));
  refused(/free/, offer({ segments: [1] }));
  refused(/does not have/, offer({ segments: [10] }));
  refused(/twice/, offer({ segments: [2, 2], amountMsat: 16_000n }));
});

test('a segment that was delivered, or is in another open invoice, is refused', () => {
  refused(/already delivered/, offer(), { served: new Set([2]) });
  refused(/another open invoice/, offer(), { open: new Set([2, 3]) });
});

test('a route hint with an excessive fee is refused, a modest one is not', () => {
  refused(/fees/, offer({}, { hint: [5_000, 0] }));
  refused(/fees/, offer({}, { hint: [0, 900_000] }));
  assert.equal(check(offer({}, { hint: [1_000, 100] }), terms, fresh).kind, 'pay');
});

test('what cannot be read is refused', () => {
  refused(/cannot be read/, offer({ invoice: 'lnbc1nonsense' }));
});

test('the window may be paid at once; beyond it, money waits until it is watched', () => {
  assert.equal(check(offer(), terms, { ...fresh, spentMsat: 16_000n }).kind, 'pay');
  assert.equal(check(offer(), terms, { ...fresh, spentMsat: 17_000n }).kind, 'wait');
  // One second watched at 2 sat/s, twice: 4 satoshis more.
  assert.equal(check(offer(), terms, { ...fresh, spentMsat: 20_000n, watchedMs: 1_000 }).kind, 'pay');
  assert.equal(check(offer(), terms, { ...fresh, spentMsat: 20_001n, watchedMs: 1_000 }).kind, 'wait');
});

test('when paid segments do not arrive, no more is paid', () => {
  const watched = { ...fresh, watchedMs: 3_600_000 };
  assert.equal(check(offer(), terms, { ...watched, undeliveredMsat: 24_000n }).kind, 'pay');
  assert.equal(check(offer(), terms, { ...watched, undeliveredMsat: 25_000n }).kind, 'wait');
});
