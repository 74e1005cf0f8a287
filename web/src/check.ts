// Whether to pay an invoice: PROTOCOL.md, "What a paying client checks before it pays". Pure: the caller says what is
// known and what time it is, and acts on the verdict.

import { decodeInvoice, type Invoice } from './bolt11.ts';
import { dearestSegment, segmentPrice, type Tariff, type Timeline } from './timeline.ts';
import type { Offer } from './wire.ts';

export interface Terms {
  payee: string;
  /** The price that the viewer was shown and accepted. */
  tariff: Tariff;
  timeline: Timeline;
  /** The most segments that may be invoiced ahead of the playhead: max(`ahead`, `bundle`) of the session. */
  reach: number;
}

export interface Standing {
  nowSeconds: number;
  /** Time the viewer watched or waited to watch, not time on pause. */
  watchedMs: number;
  /** All that was paid or may have been, fees included. */
  spentMsat: bigint;
  /** Of that, what was paid for segments whose bytes have not come. */
  undeliveredMsat: bigint;
  /** Network of the session's first invoice; null before it. */
  network: string | null;
  served: ReadonlySet<number>;
  /** Segments that are paid, or in other invoices that are open and not reported failed. */
  open: ReadonlySet<number>;
}

export type Verdict =
  | { kind: 'pay'; invoice: Invoice }
  | { kind: 'wait'; words: string }
  | { kind: 'refuse'; words: string };

/** An invoice this close to its expiry is not paid: the payment could arrive too late. */
const EXPIRY_MARGIN_SECONDS = 5;
/** Route hints may cost a twentieth of the amount, or this much on amounts so small that a base fee dominates. */
const HINT_FEE_FLOOR_MSAT = 2_000n;
const HINT_FEE_DIVISOR = 20n;

export function check(offer: Offer, terms: Terms, standing: Standing): Verdict {
  let invoice: Invoice;
  try {
    invoice = decodeInvoice(offer.invoice);
  } catch (error) {
    return refuse(`The invoice cannot be read: ${(error as Error).message}.`);
  }
  const words = againstInvoice(invoice, offer, terms, standing) ?? againstSegments(invoice, offer, terms, standing);
  if (words) return refuse(words);
  return withinBudget(invoice, terms, standing);
}

function againstInvoice(invoice: Invoice, offer: Offer, terms: Terms, standing: Standing): string | null {
  if (standing.network !== null && invoice.network !== standing.network) {
    return 'The invoice is for another network than the ones before it.';
  }
  if (invoice.payee !== terms.payee) return "The invoice is not signed by this server's node.";
  if (invoice.paymentHash !== offer.paymentHash) return 'The invoice has another payment hash than announced.';
  if (standing.nowSeconds + EXPIRY_MARGIN_SECONDS >= invoice.expiresAt) {
    return "The invoice has expired (or this device's clock is wrong).";
  }
  if (invoice.expiresAt !== offer.expiresAt) return 'The invoice expires at another time than announced.';
  if (invoice.amountMsat === null || invoice.amountMsat === 0n) return 'The invoice names no amount.';
  if (invoice.amountMsat !== offer.amountMsat) return 'The invoice asks for another amount than announced.';
  const cap = max(HINT_FEE_FLOOR_MSAT, invoice.amountMsat / HINT_FEE_DIVISOR);
  if (invoice.routeHints.some((hops) => hintFee(hops, invoice.amountMsat!) > cap)) {
    return "The invoice's route costs too much in fees.";
  }
  return null;
}

function againstSegments(invoice: Invoice, offer: Offer, terms: Terms, standing: Standing): string | null {
  if (offer.segments.length === 0) return 'The invoice is for no segment.';
  if (new Set(offer.segments).size !== offer.segments.length) return 'The invoice counts a segment twice.';
  let owed = 0n;
  for (const n of offer.segments) {
    const price = segmentPrice(terms.timeline, terms.tariff, n);
    if (price === null) return `The invoice is for segment ${n}, which this film does not have.`;
    if (price === 0n) return `The invoice is for segment ${n}, which is free.`;
    if (standing.served.has(n)) return `The invoice is for segment ${n}, which was already delivered.`;
    if (standing.open.has(n)) return `The invoice is for segment ${n}, which is paid or in another open invoice.`;
    owed += price;
  }
  if (invoice.amountMsat !== owed) {
    return `The invoice asks for ${invoice.amountMsat} msat; by the agreed price it is ${owed} msat.`;
  }
  return null;
}

function withinBudget(invoice: Invoice, terms: Terms, standing: Standing): Verdict {
  const amount = invoice.amountMsat ?? 0n;
  const window = BigInt(terms.reach) * dearestSegment(terms.timeline, terms.tariff);
  const watched = BigInt(Math.floor(standing.watchedMs)) * terms.tariff.msatPerSecond;
  const budget = (2n * watched) / 1000n + window;
  if (standing.spentMsat + amount > budget) {
    return { kind: 'wait', words: 'Paying waits: the server asks for more than was watched so far.' };
  }
  // One segment more than the window, because the next invoice comes when the first byte of a segment went out, and
  // its last is still on its way then.
  const underway = window + dearestSegment(terms.timeline, terms.tariff);
  if (standing.undeliveredMsat + amount > underway) {
    return { kind: 'wait', words: 'Paying waits: segments that are paid for have not arrived yet.' };
  }
  return { kind: 'pay', invoice };
}

/** Each hop charges on what it forwards, so fees compound from the payee backwards. */
function hintFee(hops: Invoice['routeHints'][number], amountMsat: bigint): bigint {
  const total = hops.reduceRight(
    (sum, hop) => sum + hop.feeBaseMsat + (sum * hop.feePartsPerMillion) / 1_000_000n,
    amountMsat,
  );
  return total - amountMsat;
}

function refuse(words: string): Verdict {
  return { kind: 'refuse', words };
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
