// What this visit owes, paid and received: the facts from which `check` judges the next invoice.

import type { Standing, Terms } from './check.ts';
import { segmentPrice } from './timeline.ts';
import type { Offer } from './wire.ts';

/** `unknown`: sent, outcome not known. `given up`: unknown still when it could not be tried again. */
type BillState = 'queued' | 'refused' | 'expired' | 'paying' | 'unknown' | 'given up' | 'failed' | 'paid';

export interface Bill {
  offer: Offer;
  state: BillState;
  /** It was sent before: a failure now may only mean that the first try is under way or went through. */
  sentBefore?: boolean;
  /** The server has its money, while the wallet is still silent. */
  settled?: boolean;
  /** Called when it is settled while it is being paid. */
  onSettled?: () => void;
}

export interface Totals {
  paidMsat: bigint;
  feeMsat: bigint;
  paidSegments: number;
  servedSegments: number;
}

export class Account {
  /** Set by the first invoice that stands the check, which also shows that this device's clock is right. */
  network: string | null = null;
  readonly served = new Set<number>();
  readonly arrived = new Set<number>();
  readonly #terms: Terms;
  readonly #bills = new Map<string, Bill>();
  readonly #paidSegments = new Set<number>();
  /** Paid, and the money surely still there for them. */
  readonly #covered = new Set<number>();
  #paidMsat = 0n;
  #feeMsat = 0n;

  constructor(terms: Terms) {
    this.#terms = terms;
  }

  /** An invoice that is known already changes nothing: the server sends open ones again after a reconnection. */
  add(offer: Offer): void {
    if (!this.#bills.has(offer.paymentHash)) this.#bills.set(offer.paymentHash, { offer, state: 'queued' });
  }

  get(paymentHash: string): Bill | undefined {
    return this.#bills.get(paymentHash);
  }

  inState(state: BillState): Bill[] {
    return [...this.#bills.values()].filter((bill) => bill.state === state);
  }

  book(bill: Bill, feeMsat: bigint | null): void {
    bill.state = 'paid';
    this.#paidMsat += bill.offer.amountMsat;
    this.#feeMsat += feeMsat ?? 0n;
    for (const n of bill.offer.segments) {
      this.#paidSegments.add(n);
      this.#covered.add(n);
    }
  }

  /** After a seek the server draws what was paid for other segments first, so these may have to be paid anew. */
  uncover(): void {
    this.#covered.clear();
  }

  totals(): Totals {
    return {
      paidMsat: this.#paidMsat,
      feeMsat: this.#feeMsat,
      paidSegments: this.#paidSegments.size,
      servedSegments: this.served.size,
    };
  }

  standing(bill: Bill, nowSeconds: number, watchedMs: number): Standing {
    const open = new Set(this.#covered);
    let underWayMsat = 0n;
    // Of two invoices for one segment the first stands, so only queued ones before this one count.
    let before = true;
    for (const other of this.#bills.values()) {
      if (other === bill) {
        before = false;
        continue;
      }
      const sentAndQueued = other.state === 'queued' && other.sentBefore === true;
      const underWay = other.state === 'paying' || other.state === 'unknown' || sentAndQueued;
      if (underWay || other.state === 'given up') underWayMsat += other.offer.amountMsat;
      const payable = before && other.state === 'queued' && other.offer.expiresAt > nowSeconds;
      if (underWay || payable) for (const n of other.offer.segments) open.add(n);
    }
    let arrivedMsat = 0n;
    for (const n of this.arrived) arrivedMsat += segmentPrice(this.#terms.timeline, this.#terms.tariff, n) ?? 0n;
    const undelivered = this.#paidMsat - arrivedMsat;
    return {
      nowSeconds,
      watchedMs,
      spentMsat: this.#paidMsat + this.#feeMsat + underWayMsat,
      undeliveredMsat: undelivered > 0n ? undelivered : 0n,
      network: this.network,
      served: this.served,
      open,
    };
  }
}
