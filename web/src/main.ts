// The watch page: joins video, wallet, session, player and payer.

import { findVideo } from './finding.ts';
import { clock, sats } from './format.ts';
import { Page } from './page.ts';
import { Payer, type PayerListener } from './payer.ts';
import { startPlayer, type Player } from './player.ts';
import { fetchTimeline, fetchVideo, followInvoices, openSession, reportFailed, setPaused } from './session.ts';
import { firstPaidSegment, segmentCount, segmentPrice, type Tariff, type Timeline } from './timeline.ts';
import { findWallet, type Wallet } from './wallet.ts';
import { videoIdOf, type Session, type Video } from './wire.ts';
import { WatchClock } from './watch-clock.ts';

/** Segments the server invoices ahead of the playhead unless told otherwise (`ahead`, PROTOCOL.md). */
const AHEAD = 3;
const BALANCE_INTERVAL_MS = 2_000;

async function main(page: Page): Promise<void> {
  const id = videoIdOf(location.pathname);
  if (id === null) return page.status('This address names no film.');
  const wallet = findWallet();
  page.walletName(wallet?.name ?? 'none');
  const video = await findVideo(
    () => fetchVideo(id),
    ({ words, trouble }) => {
      page.status(words);
      page.notice('start', trouble);
    },
    whileSeen,
  );
  page.notice('start', null);
  page.showVideo(video);
  if (wallet) void showBalance(page, wallet);
  page.status(
    wallet || video.msatPerSecond === 0n
      ? 'Ready. Press Play.'
      : 'Ready. The preview is free; to watch on, a Lightning wallet is needed.',
  );
  page.play.disabled = false;
  page.play.addEventListener('click', () => {
    page.play.disabled = true;
    watch(page, video, wallet ?? findWallet()).catch((error: Error) => {
      page.notice('start', error.message);
      page.play.disabled = false;
      // It lost the focus when it was disabled.
      page.play.focus();
    });
  });
}

/** Waits, and then on until the page is in sight: for one that nobody sees the server need not be asked. */
async function whileSeen(delayMs: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, delayMs));
  if (!document.hidden) return;
  await new Promise((resolve) => document.addEventListener('visibilitychange', resolve, { once: true }));
}

async function watch(page: Page, video: Video, wallet: Wallet | null): Promise<void> {
  page.notice('start', null);
  page.status('Opening the session…');
  if (video.msatPerSecond > 0n) await wallet?.enable();
  page.walletName(wallet?.name ?? 'none');
  const session = await openSession(video.id);
  if (session.msatPerSecond !== video.msatPerSecond) {
    throw new Error('The price has changed since this page was loaded. Reload it to see the new one.');
  }
  const timeline = await fetchTimeline(session.playlist);
  const viewing = new Viewing(page, video, session, timeline, wallet);
  page.raiseCurtain();
  await viewing.start();
}

class Viewing {
  readonly #page: Page;
  readonly #video: Video;
  readonly #session: Session;
  readonly #tariff: Tariff;
  readonly #wallet: Wallet | null;
  readonly #payer: Payer;
  readonly #clock: WatchClock;
  readonly #priceMsat: bigint;
  #player: Player | undefined;
  #paying = true;
  #ended = false;
  #stalledAt: number | null = null;
  #balanceTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(page: Page, video: Video, session: Session, timeline: Timeline, wallet: Wallet | null) {
    this.#page = page;
    this.#video = video;
    this.#session = session;
    this.#wallet = wallet;
    this.#clock = new WatchClock(page.video);
    const own = firstPaidSegment(timeline, video.previewSeconds);
    const count = segmentCount(timeline);
    if (video.msatPerSecond > 0n && Math.min(session.firstPaidSegment ?? count, count) < own) {
      throw new Error('The server wants money for the free preview. Nothing is paid.');
    }
    this.#tariff = {
      msatPerSecond: video.msatPerSecond,
      granularityMsat: session.granularityMsat,
      firstPaidSegment: session.firstPaidSegment ?? count,
    };
    const prices = Array.from({ length: count }, (_, n) => segmentPrice(timeline, this.#tariff, n) ?? 0n);
    this.#priceMsat = prices.reduce((sum, price) => sum + price, 0n);
    const terms = { payee: session.payee, tariff: this.#tariff, timeline, reach: AHEAD };
    this.#payer = new Payer(
      wallet,
      terms,
      () => this.#clock.elapsedMs(),
      this.#payerListener(),
    );
  }

  async start(): Promise<void> {
    const { video } = this.#page;
    for (const event of ['playing', 'waiting', 'pause', 'timeupdate', 'ended', 'seeking'] as const) {
      video.addEventListener(event, () => this.#tell());
    }
    this.#player = startPlayer(video, this.#session.playlist, {
      arrived: (segment) => this.#payer.arrived(segment),
      trouble: (words) => this.#page.notice('player', words),
    });
    if (this.#priceMsat > 0n) this.#follow();
    try {
      await video.play();
    } catch {
      this.#page.status('Press play in the player to begin.');
    }
  }

  #follow(): void {
    if (this.#wallet) {
      this.#page.showValve(true);
      this.#page.valve.addEventListener('click', () => this.#setPaying(!this.#paying));
    }
    followInvoices(this.#session.control, {
      invoice: (offer) => this.#payer.offered(offer),
      paid: (paymentHash) => this.#payer.settled(paymentHash),
      served: (segment) => {
        if (segment === this.#stalledAt) this.#stalledAt = null;
        // A native player hides what it loads; then the server's word has to do.
        if (!this.#player?.tellsArrivals) this.#payer.arrived(segment);
        this.#payer.served(segment);
      },
      seek: (segment) => this.#payer.sought(segment),
      waiting: (segment) => {
        this.#stalledAt = segment;
        this.#payer.awaited(segment);
        this.#tell();
      },
      end: () => this.#end(),
      trouble: (words) => this.#page.notice('stream', words),
    });
  }

  #payerListener(): PayerListener {
    const page = this.#page;
    return {
      paid: (receipt) => {
        page.receipt(receipt);
        this.#refreshBalance();
      },
      changed: (totals) => {
        page.totals(totals);
        page.scene.setLevels(Number(totals.paidMsat) / Number(this.#priceMsat));
        this.#tell();
      },
      byHand: (offer) => page.byHand(offer),
      stopped: (words) => {
        page.notice('payment', words);
        this.#setPaying(false);
      },
      resolved: () => this.#setPaying(true),
      trouble: (words) => page.notice('payment', words),
      refused: (words) => page.notice('refusal', `Not paid. ${words}`),
      failed: (paymentHash) => this.#tellServer(reportFailed(this.#session.control, paymentHash)),
    };
  }

  #end(): void {
    this.#ended = true;
    this.#paying = false;
    this.#payer.ended();
    this.#player?.setPaying(false);
    this.#page.valve.disabled = true;
    const words = 'The session has ended: nothing more is paid. Reload the page to watch on.';
    this.#page.notice('stream', words);
    this.#tell();
  }

  #setPaying(paying: boolean): void {
    if (this.#ended) return;
    this.#paying = paying;
    if (paying) {
      this.#page.notice('payment', null);
      this.#page.notice('refusal', null);
    }
    this.#payer.setPaused(!paying);
    this.#player?.setPaying(paying);
    this.#page.showValve(paying);
    this.#tellServer(setPaused(this.#session.control, !paying));
    this.#tell();
  }

  /** What the server should know and the viewer need not wait for. */
  #tellServer(told: Promise<void>): void {
    told.then(
      () => this.#page.notice('control', null),
      (error: Error) => this.#page.notice('control', error.message),
    );
  }

  #refreshBalance(): void {
    const wallet = this.#wallet;
    if (!wallet) return;
    this.#balanceTimer ??= setTimeout(() => {
      this.#balanceTimer = undefined;
      void showBalance(this.#page, wallet);
    }, BALANCE_INTERVAL_MS);
  }

  /** Says in a sentence where things stand, and sets the gate to match. */
  #tell(): void {
    const { video, scene } = this.#page;
    const running = !video.paused && !video.ended;
    const inPreview = this.#video.previewSeconds > video.currentTime;
    scene.setGate(this.#paying && running && this.#payer.totals().paidSegments > 0);
    this.#page.status(this.#sentence(running, video.readyState < HTMLMediaElement.HAVE_FUTURE_DATA, inPreview));
  }

  #sentence(running: boolean, stalled: boolean, inPreview: boolean): string {
    const { paidMsat, feeMsat } = this.#payer.totals();
    if (this.#page.video.ended) return `The end. You paid ${sats(paidMsat + feeMsat)} sat, fees included.`;
    if (this.#priceMsat === 0n) return running ? 'Playing. This film is free.' : 'On pause.';
    if (stalled && running) {
      if (this.#stalledAt === null) return 'Loading…';
      if (this.#ended) return 'The session has ended, and with it what was paid for.';
      if (!this.#paying) return 'The gate is shut: the film waits here. Press Resume to watch on.';
      if (!this.#wallet) return 'A wallet is needed to watch on: the preview is over and the next invoice is open.';
      return `Waiting for the payment of segment ${this.#stalledAt}.`;
    }
    if (this.#ended) return running ? 'Playing what is paid. Nothing more is paid.' : 'On pause.';
    if (!this.#paying) return 'The gate is shut. What is paid still plays; nothing more is paid.';
    if (!running) return 'On pause.';
    const wallet = this.#wallet ? '' : ' A wallet is needed to watch on.';
    if (inPreview) return `Preview: free until ${clock(this.#video.previewSeconds)}.${wallet}`;
    return `Playing. Paying as you watch.${wallet}`;
  }
}

async function showBalance(page: Page, wallet: Wallet): Promise<void> {
  try {
    const balance = await wallet.balanceMsat();
    if (balance !== null) page.balance(balance);
    page.notice('wallet', null);
  } catch (error) {
    page.notice('wallet', `The wallet does not tell its balance: ${(error as Error).message}`);
  }
}

const page = new Page();
main(page).catch((error: Error) => {
  page.status('This film cannot be shown.');
  page.notice('start', error.message);
});
