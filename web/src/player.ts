// Plays a session's playlist. A segment that is not paid yet is held by the server for some seconds and then answered
// with 402; the player asks for the same one again, and never skips it.

import Hls, {
  type FragmentLoaderContext,
  type HlsConfig,
  type LoaderCallbacks,
  type LoaderConfig,
  type LoaderConfiguration,
} from 'hls.js/light';

export interface PlayerListener {
  /** The bytes of a segment arrived whole. */
  arrived(segment: number): void;
  /** Null when playback is well again. */
  trouble(words: string | null): void;
}

export interface Player {
  /** Whether `arrived` will be called: a native player hides what it loads. */
  readonly tellsArrivals: boolean;
  /** Whether to ask again for a segment that is answered with 402. */
  setPaying(paying: boolean): void;
}

/** Ahead of the playhead, in seconds: what is buffered is paid, so a long buffer is money spent on what nobody saw. */
const BUFFER_SECONDS = 12;
const BUFFER_SECONDS_MAX = 20;
/** Behind the playhead: without a limit a long film fills the memory. What was served is served again for nothing. */
const BUFFER_SECONDS_BEHIND = 90;
/** A decoder that fails again so soon after it was reset fails at the same place. */
const RECOVERY_MS_MIN = 5_000;
/** How soon a film that could not be loaded is tried again: the tries before it have taken their time. */
const RESTART_MS = 5_000;
/** The server holds an unpaid segment for 8 s, at most 25: the browser must not give up before. */
const HOLD_MS_MAX = 30_000;
const LOAD_MS_MAX = 120_000;
const RETRIES_MAX = 10;
const PAYMENT_REQUIRED = 402;
/** A broken connection and "too many requests", which hls.js would not try again by itself. */
const PASSING_STATUSES = [0, 429];
const HLS_TYPE = 'application/vnd.apple.mpegurl';

export function startPlayer(video: HTMLVideoElement, playlist: string, listener: PlayerListener): Player {
  if (Hls.isSupported()) return startHls(video, playlist, listener);
  if (video.canPlayType(HLS_TYPE) !== '') return startNative(video, playlist, listener);
  throw new Error('This browser can play neither Media Source nor HLS video.');
}

function startHls(video: HTMLVideoElement, playlist: string, listener: PlayerListener): Player {
  let paying = true;
  let recoveredAt = -Infinity;
  const hls = new Hls({
    enableWorker: false,
    maxBufferLength: BUFFER_SECONDS,
    maxMaxBufferLength: BUFFER_SECONDS_MAX,
    backBufferLength: BUFFER_SECONDS_BEHIND,
    capLevelToPlayerSize: true,
    // The test would load the first segment twice.
    testBandwidth: false,
    fragLoadPolicy: { default: segmentPolicy() },
    fLoader: HeldLoader as unknown as NonNullable<HlsConfig['fLoader']>,
  });
  hls.on(Hls.Events.FRAG_BUFFERED, (_event, { frag }) => {
    listener.trouble(null);
    const n = segmentNumber(frag.relurl ?? '');
    if (n !== null) listener.arrived(n);
  });
  hls.on(Hls.Events.ERROR, (_event, data) => {
    if (data.response?.code === PAYMENT_REQUIRED) {
      // After hls.js has drawn its own conclusions from the error, so that the stop is the last word.
      if (!paying) setTimeout(() => paying || hls.stopLoad());
      return;
    }
    if (!data.fatal) return;
    if (data.type === Hls.ErrorTypes.MEDIA_ERROR && performance.now() - recoveredAt > RECOVERY_MS_MIN) {
      recoveredAt = performance.now();
      hls.recoverMediaError();
    } else if (data.type === Hls.ErrorTypes.NETWORK_ERROR && passes(data.response?.code)) {
      // The session holds what was paid, so a server that was away for a while is no reason to begin a new one.
      listener.trouble(`The film cannot be loaded (${data.details}). Trying again.`);
      setTimeout(() => (hls.levels.length === 0 ? hls.loadSource(playlist) : hls.startLoad()), RESTART_MS);
    } else {
      listener.trouble(`The film cannot be loaded (${data.details}).`);
    }
  });
  hls.loadSource(playlist);
  hls.attachMedia(video);
  return {
    tellsArrivals: true,
    setPaying(now) {
      if (now && !paying) hls.startLoad();
      paying = now;
    },
  };
}

function startNative(video: HTMLVideoElement, playlist: string, listener: PlayerListener): Player {
  video.addEventListener('error', () => listener.trouble('The film cannot be loaded.'));
  video.addEventListener('playing', () => listener.trouble(null));
  video.src = playlist;
  return { tellsArrivals: false, setPaying() {} };
}

function segmentPolicy(): LoaderConfig {
  const retry = { maxNumRetry: RETRIES_MAX, retryDelayMs: 500, maxRetryDelayMs: 2_000 };
  return {
    maxTimeToFirstByteMs: HOLD_MS_MAX,
    maxLoadTimeMs: LOAD_MS_MAX,
    timeoutRetry: retry,
    errorRetry: {
      ...retry,
      shouldRetry: (_policy, count, _timeout, response, standard) => {
        // "Not paid yet" is no failure, however often it is said: the viewer may be reaching for his telephone.
        if (response?.code === PAYMENT_REQUIRED) return true;
        return standard || (count < RETRIES_MAX && PASSING_STATUSES.includes(response?.code ?? -1));
      },
    },
  };
}

/** Whether a failed request is worth another: not after the server's plain no. */
function passes(status: number | undefined): boolean {
  return status === undefined || status >= 500 || PASSING_STATUSES.includes(status);
}

function segmentNumber(address: string): number | null {
  const match = /(\d+)\.m4s(?:\?|$)/.exec(address);
  return match ? Number(match[1]) : null;
}

/**
 * Counts a segment's loading time from its first byte: while the server holds the answer, hls.js would take the wait
 * for a slow network, and fall to the lowest quality in the middle of a payment.
 */
class HeldLoader extends Hls.DefaultConfig.loader {
  #ticker: ReturnType<typeof setInterval> | undefined;

  override load(
    context: FragmentLoaderContext,
    config: LoaderConfiguration,
    callbacks: LoaderCallbacks<FragmentLoaderContext>,
  ): void {
    super.load(context, config, callbacks as never);
    this.#ticker = setInterval(() => {
      const { loading } = this.stats;
      if (loading.first || this.stats.aborted) clearInterval(this.#ticker);
      else loading.start = performance.now();
    }, 100);
  }

  override abort(): void {
    clearInterval(this.#ticker);
    super.abort();
  }

  override destroy(): void {
    clearInterval(this.#ticker);
    super.destroy();
  }
}
