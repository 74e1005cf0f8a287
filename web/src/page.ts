// What the viewer sees. Text only ever enters as text: titles come from strangers.

import { clock, ranges, sats, wholeSats } from './format.ts';
import { Scene } from './scene.ts';
import type { Totals } from './account.ts';
import type { Receipt } from './payer.ts';
import type { Offer, Video } from './wire.ts';

const LOG_ROWS_MAX = 30;

export class Page {
  readonly video = find('video', HTMLVideoElement);
  readonly play = find('play', HTMLButtonElement);
  readonly valve = find('valve', HTMLButtonElement);
  readonly scene = new Scene(find('scene', HTMLElement));
  readonly #meter = find('meter', HTMLElement);
  readonly #notices = find('notices', HTMLElement);
  readonly #invoice = find('by-hand-invoice', HTMLTextAreaElement);
  #balanceBefore: bigint | null = null;

  constructor() {
    find('by-hand-copy', HTMLButtonElement).addEventListener('click', () => void this.#copyInvoice());
  }

  showVideo(video: Video): void {
    document.title = `${video.title} · Sluice`;
    say('title', video.title);
    find('title', HTMLElement).classList.remove('sr-only');
    const facts = [video.creator && `by ${video.creator}`, video.durationMs > 0 && clock(video.durationMs / 1000)];
    say('byline', facts.filter(Boolean).join(' · '));
    say('description', video.description);
    if (video.msatPerSecond === 0n) {
      say('rate', 'Free');
      say('rate-unit', '');
      return say('terms', 'This film is free.');
    }
    say('rate', sats(video.msatPerSecond));
    const price = `${sats(video.msatPerSecond)} sat a second`;
    say('terms', video.previewSeconds > 0 ? `First ${clock(video.previewSeconds)} free, then ${price}` : price);
  }

  /** Takes the curtain away; the player's own controls are from now on the ones to use. */
  raiseCurtain(): void {
    find('curtain', HTMLElement).hidden = true;
    this.video.removeAttribute('tabindex');
    this.video.focus({ preventScroll: true });
  }

  status(words: string): void {
    // Saying the same again would make a screen reader repeat it.
    if (find('status', HTMLElement).textContent !== words) say('status', words);
  }

  /** One notice a subject; null takes it away. */
  notice(subject: string, words: string | null): void {
    const old = [...this.#notices.children].find((each) => (each as HTMLElement).dataset['subject'] === subject);
    if (old?.textContent === words) return;
    old?.remove();
    if (words === null) return;
    const notice = document.createElement('p');
    notice.className = 'notice';
    notice.dataset['subject'] = subject;
    notice.textContent = words;
    this.#notices.append(notice);
  }

  walletName(name: string): void {
    say('wallet-name', name);
  }

  balance(msat: bigint): void {
    this.#balanceBefore ??= msat;
    say('balance', wholeSats(msat));
    say('balance-unit', 'sat');
    say('balance-before', `${wholeSats(this.#balanceBefore)} before`);
  }

  totals(totals: Totals): void {
    say('paid', sats(totals.paidMsat));
    say('fees', totals.feeMsat > 0n ? `and ${sats(totals.feeMsat)} in fees` : totals.paidMsat > 0n ? 'no fees' : '');
    say('paid-segments', String(totals.paidSegments));
    say('served-segments', String(totals.servedSegments));
    this.#meter.dataset['paidMsat'] = String(totals.paidMsat);
    this.#meter.dataset['feeMsat'] = String(totals.feeMsat);
    this.#meter.dataset['paidSegments'] = String(totals.paidSegments);
    this.#meter.dataset['servedSegments'] = String(totals.servedSegments);
  }

  receipt(receipt: Receipt): void {
    const rows = find('log-rows', HTMLElement);
    const row = document.createElement('tr');
    const cells = [
      ranges(receipt.segments),
      sats(receipt.amountMsat),
      receipt.feeMsat === null ? '–' : sats(receipt.feeMsat),
      receipt.tookMs === null ? '–' : `${Math.round(receipt.tookMs)} ms`,
    ];
    for (const text of cells) row.append(Object.assign(document.createElement('td'), { textContent: text }));
    rows.prepend(row);
    while (rows.children.length > LOG_ROWS_MAX) rows.lastElementChild?.remove();
    find('log', HTMLElement).hidden = false;
    find('log-empty', HTMLElement).hidden = true;
    this.scene.pour(receipt.amountMsat);
  }

  byHand(offer: Offer | null): void {
    find('by-hand', HTMLElement).hidden = offer === null;
    if (offer === null || this.#invoice.value === offer.invoice) return;
    this.#invoice.value = offer.invoice;
    say('by-hand-amount', `${sats(offer.amountMsat)} sat`);
    say('by-hand-copy', 'Copy invoice');
    find('by-hand-open', HTMLAnchorElement).href = `lightning:${offer.invoice}`;
  }

  showValve(paying: boolean): void {
    this.valve.disabled = false;
    this.valve.textContent = paying ? 'Stop paying' : 'Resume';
    say('valve-note', paying ? 'Closes the gate: nothing more is paid until you resume.' : 'Opens the gate again.');
    this.valve.dataset['paying'] = String(paying);
  }

  async #copyInvoice(): Promise<void> {
    this.#invoice.select();
    try {
      await navigator.clipboard.writeText(this.#invoice.value);
      say('by-hand-copy', 'Copied');
    } catch {
      say('by-hand-copy', 'Selected: press Ctrl+C');
    }
  }
}

function say(id: string, words: string): void {
  find(id, HTMLElement).textContent = words;
}

function find<T extends HTMLElement>(id: string, kind: abstract new () => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof kind)) throw new Error(`index.html has no ${id}`);
  return element;
}
