// Pays the session's invoices: each once, one at a time, each checked first. What may have been paid is never paid
// again unless the viewer says so.

import { Account, type Bill, type Totals } from './account.ts';
import { check, type Terms } from './check.ts';
import { ranges } from './format.ts';
import { proves, type Outcome, type Wallet } from './wallet.ts';
import type { Offer } from './wire.ts';

export interface Receipt {
  segments: readonly number[];
  amountMsat: bigint;
  /** Null where the wallet does not tell. */
  feeMsat: bigint | null;
  /** Null where it was not this page's wallet that answered. */
  tookMs: number | null;
}

export interface PayerListener {
  paid(receipt: Receipt): void;
  changed(totals: Totals): void;
  /** The invoice to pay by hand, where there is no wallet; null when none is open. */
  byHand(offer: Offer | null): void;
  /** Payments stop until the viewer resumes them. */
  stopped(words: string): void;
  /** What stopped them was cleared up. */
  resolved(): void;
  /** A passing trouble, null when it is over. */
  trouble(words: string | null): void;
  refused(words: string): void;
  failed(paymentHash: string): void;
}

/** In a row; after them something is wrong that another try does not mend. */
const FAILURES_MAX = 5;
const BACKOFF_MS_FIRST = 1_000;
const BACKOFF_MS_MAX = 16_000;
/** How soon an invoice that had to wait is looked at again, and how long it waits without a word. */
const RECHECK_MS = 500;
const PATIENCE_MS = 5_000;
/** How long the wallet's own answer, which brings the fee, is waited for once the server has the money. */
const SILENCE_MS = 5_000;

export class Payer {
  readonly #wallet: Wallet | null;
  readonly #terms: Terms;
  readonly #watchedMs: () => number;
  readonly #listener: PayerListener;
  readonly #account: Account;
  #failures = 0;
  #notBefore = 0;
  #waitingSince: number | null = null;
  /** After a seek, the segment that plays next: what lies elsewhere is not paid. */
  #position: number | null = null;
  #paused = false;
  /** Whether it was this payer that paused, and not the viewer: only then may it go on by itself. */
  #ownPause = false;
  #ended = false;
  #busy = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(wallet: Wallet | null, terms: Terms, watchedMs: () => number, listener: PayerListener) {
    this.#wallet = wallet;
    this.#terms = terms;
    this.#watchedMs = watchedMs;
    this.#listener = listener;
    this.#account = new Account(terms);
  }

  offered(offer: Offer): void {
    this.#account.add(offer);
    this.#work();
  }

  /** The server has the money, whoever paid and whatever the wallet said. */
  settled(paymentHash: string): void {
    const bill = this.#account.get(paymentHash);
    if (!bill || bill.state === 'paid') return;
    bill.settled = true;
    if (bill.state === 'paying') return bill.onSettled?.();
    const wasUnknown = bill.state === 'unknown';
    this.#book(bill, null, null);
    if (wasUnknown && this.#account.inState('unknown').length === 0) this.#resolve();
    this.#work();
  }

  /** The server began to send a segment. */
  served(segment: number): void {
    this.#account.served.add(segment);
    if (this.#position !== null) this.#position = segment + 1;
    this.#listener.changed(this.totals());
    this.#work();
  }

  /** A segment's bytes are here. */
  arrived(segment: number): void {
    this.#account.arrived.add(segment);
    this.#work();
  }

  sought(segment: number): void {
    this.#position = segment;
    this.#account.uncover();
    this.#work();
  }

  /**
   * The player waits for a segment: it plays next, whatever was believed. A stream that broke may have left out where
   * the viewer is.
   */
  awaited(segment: number): void {
    const from = this.#position;
    if (from === null || (segment >= from && segment < from + this.#terms.reach)) return;
    this.#position = segment;
    this.#work();
  }

  /** The session is over: nothing is paid from here on, not even what is queued. What is under way is still booked. */
  ended(): void {
    this.#ended = true;
    this.#waits(null);
    this.#work();
  }

  /**
   * On resuming, an invoice of unknown outcome is tried again: the same one, because Lightning nodes pay one payment
   * hash only once. After its expiry the viewer has been told that its segments may be paid twice.
   */
  setPaused(paused: boolean): void {
    this.#paused = paused;
    if (paused) return;
    this.#ownPause = false;
    this.#failures = 0;
    this.#notBefore = 0;
    for (const bill of this.#account.inState('unknown')) {
      bill.sentBefore = true;
      bill.state = bill.offer.expiresAt > Date.now() / 1000 ? 'queued' : 'given up';
    }
    this.#work();
  }

  totals(): Totals {
    return this.#account.totals();
  }

  /** Looks for an invoice to pay, and pays it; then again, until there is none. */
  #work(): void {
    if (this.#busy) return;
    clearTimeout(this.#timer);
    if (this.#paused) return;
    const bill = this.#ended ? null : this.#next();
    if (this.#wallet === null) return this.#listener.byHand(bill?.offer ?? null);
    if (!bill) return;
    const delay = this.#notBefore - performance.now();
    if (delay > 0) return this.#later(delay);
    this.#busy = true;
    void this.#pay(this.#wallet, bill).finally(() => {
      this.#busy = false;
      this.#work();
    });
  }

  /** The first invoice that stands the check; those that do not are refused, those that must wait stay. */
  #next(): Bill | null {
    const now = Date.now() / 1000;
    for (const bill of this.#account.inState('queued')) {
      if (!this.#wanted(bill.offer)) continue;
      // Once the clock is known to be right, an invoice that is too old is nobody's fault.
      if (this.#account.network !== null && bill.offer.expiresAt <= now) {
        bill.state = bill.sentBefore ? 'given up' : 'expired';
        continue;
      }
      const verdict = check(bill.offer, this.#terms, this.#account.standing(bill, now, this.#watchedMs()));
      if (verdict.kind === 'refuse') {
        bill.state = bill.sentBefore ? 'given up' : 'refused';
        this.#listener.refused(verdict.words);
      } else if (verdict.kind === 'wait') {
        this.#waits(verdict.words);
        this.#later(RECHECK_MS);
        return null;
      } else {
        this.#account.network = verdict.invoice.network;
        this.#waits(null);
        return bill;
      }
    }
    return null;
  }

  #wanted(offer: Offer): boolean {
    const from = this.#position;
    return from === null || offer.segments.some((n) => n >= from && n < from + this.#terms.reach);
  }

  async #pay(wallet: Wallet, bill: Bill): Promise<void> {
    bill.state = 'paying';
    const began = performance.now();
    const outcome = await Promise.race([wallet.pay(bill.offer.invoice), silence(bill)]);
    const tookMs = performance.now() - began;
    const proven = outcome.kind === 'paid' && proves(outcome.payment.preimage, bill.offer.paymentHash);
    if (!proven && !bill.settled) return this.#failed(bill, outcome);
    this.#failures = 0;
    this.#listener.trouble(null);
    // The amount is the invoice's, which was checked; of the wallet's answer only the fee is news.
    if (outcome.kind === 'paid') this.#book(bill, outcome.payment.feeMsat, tookMs);
    else this.#book(bill, null, null);
  }

  #failed(bill: Bill, outcome: Outcome): void {
    if (outcome.kind === 'failed' && bill.sentBefore) return this.#unknown(bill, outcome.words);
    switch (outcome.kind) {
      case 'failed':
        bill.state = 'failed';
        // The server may have drawn for this one what others paid for, so that those may have to be paid anew.
        this.#account.uncover();
        // Nobody needs to know any more, and nothing is tried again.
        if (this.#ended) return;
        this.#listener.failed(bill.offer.paymentHash);
        this.#failures += 1;
        this.#notBefore =
          performance.now() + Math.min(BACKOFF_MS_FIRST * 2 ** (this.#failures - 1), BACKOFF_MS_MAX);
        if (this.#failures < FAILURES_MAX) this.#listener.trouble(`${outcome.words} Trying again.`);
        else this.#stop(`The wallet could not pay, ${FAILURES_MAX} times in a row. ${outcome.words}`);
        return;
      case 'declined':
        // Not reported as failed: a fresh invoice would take its place, while a wallet that says this may have made
        // an attempt before. Resuming asks with the same one, which a wallet pays only once.
        bill.state = 'queued';
        bill.sentBefore = true;
        return this.#stop(`You declined the payment.${this.#ended ? '' : ' Resume to be asked again.'}`);
      case 'unknown':
        return this.#unknown(bill, outcome.words);
      case 'paid':
        return this.#unknown(bill, "The wallet's proof of payment is wrong.");
    }
  }

  #unknown(bill: Bill, words: string): void {
    bill.state = 'unknown';
    const fact = `It is not known whether the payment for segment ${ranges(bill.offer.segments)} went through. ${words}`;
    if (this.#ended) return this.#stop(fact);
    const minutes = Math.max(1, Math.ceil((bill.offer.expiresAt - Date.now() / 1000) / 60));
    this.#stop(
      `${fact} ` +
        'Nothing more is paid for now. Resume to try the same invoice again, which a wallet pays only once; ' +
        `if you resume after it expired, in ${minutes} min, its segments may be paid twice.`,
    );
  }

  #book(bill: Bill, feeMsat: bigint | null, tookMs: number | null): void {
    this.#account.book(bill, feeMsat);
    const { segments, amountMsat } = bill.offer;
    this.#listener.paid({ segments, amountMsat, feeMsat, tookMs });
    this.#listener.changed(this.totals());
  }

  #stop(words: string): void {
    if (!this.#paused) this.#ownPause = true;
    this.#paused = true;
    this.#listener.stopped(words);
  }

  /** What was unknown is known now; a viewer who stopped the payments himself resumes them himself. */
  #resolve(): void {
    if (!this.#ownPause) return this.#listener.trouble(null);
    this.#ownPause = false;
    this.#paused = false;
    this.#listener.resolved();
  }

  #waits(words: string | null): void {
    if (words === null) {
      if (this.#waitingSince !== null) this.#listener.trouble(null);
      this.#waitingSince = null;
      return;
    }
    this.#waitingSince ??= performance.now();
    if (performance.now() - this.#waitingSince > PATIENCE_MS) this.#listener.trouble(words);
  }

  #later(delayMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#work(), delayMs);
  }
}

/** What is known when the server has had the money for a while and the wallet has not answered. */
function silence(bill: Bill): Promise<Outcome> {
  return new Promise((resolve) => {
    const unanswered: Outcome = { kind: 'unknown', words: 'The wallet did not answer.' };
    bill.onSettled = () => setTimeout(() => resolve(unanswered), SILENCE_MS);
  });
}
