// The server's side of watching: the video's public facts, the session, its invoices as they come.

import {
  problemWords,
  readOffer,
  readPaymentHash,
  readSegment,
  readSession,
  readVideo,
  type Offer,
  type Session,
  type Video,
} from './wire.ts';
import { firstRendition, readTimeline, type Timeline } from './timeline.ts';

/** A request without an answer, or with one that is an error. */
export class Failure extends Error {
  /** Null where no answer came. */
  readonly status: number | null;

  constructor(words: string, status: number | null) {
    super(words);
    this.status = status;
  }
}

/** No answer takes so long; a request that hangs must not hang the page. */
const ASK_TIMEOUT_MS = 20_000;

export async function fetchVideo(id: string): Promise<Video> {
  return readVideo(await (await ask(`/api/v1/videos/${id}`)).json());
}

export async function openSession(video: string): Promise<Session> {
  const response = await ask('/api/v1/sessions', 'POST', { video });
  return readSession(await response.json());
}

/** All renditions share their boundaries, so the first one tells them. */
export async function fetchTimeline(playlist: string): Promise<Timeline> {
  const multivariant = await ask(playlist);
  const rendition = new URL(firstRendition(await multivariant.text()), new URL(playlist, location.href));
  return readTimeline(await (await ask(rendition.href)).text());
}

export async function setPaused(control: string, paused: boolean): Promise<void> {
  await ask(control, 'PATCH', { paused });
}

/** Says that a payment failed for good, so that a fresh invoice replaces its invoice. */
export async function reportFailed(control: string, paymentHash: string): Promise<void> {
  await ask(control, 'PATCH', { failed: paymentHash });
}

export interface InvoiceListener {
  invoice(offer: Offer): void;
  waiting(segment: number): void;
  paid(paymentHash: string): void;
  served(segment: number): void;
  seek(segment: number): void;
  end(): void;
  /** Null when the stream is well again. */
  trouble(words: string | null): void;
}

const RECONNECT_MS_FIRST = 2_000;
const RECONNECT_MS_MAX = 30_000;

/** Follows the session's events until `end`; returns a way to stop. */
export function followInvoices(control: string, listener: InvoiceListener): () => void {
  let source: EventSource;
  let stopped = false;
  let delay = RECONNECT_MS_FIRST;
  // The browser tells it where it reconnects by itself; a source that is opened anew must.
  let last = '';
  const stop = () => {
    stopped = true;
    source.close();
  };

  const connect = () => {
    if (stopped) return;
    const since = last === '' ? '' : `?last_event_id=${encodeURIComponent(last)}`;
    source = new EventSource(`${control}/invoices${since}`);
    const on = (name: string, handle: (json: unknown) => void) =>
      source.addEventListener(name, (event) => {
        last = (event as MessageEvent<string>).lastEventId || last;
        try {
          handle(JSON.parse((event as MessageEvent<string>).data));
        } catch (error) {
          listener.trouble((error as Error).message);
        }
      });
    on('invoice', (json) => listener.invoice(readOffer(json)));
    on('waiting', (json) => listener.waiting(readSegment(json)));
    on('paid', (json) => listener.paid(readPaymentHash(json)));
    on('served', (json) => listener.served(readSegment(json)));
    on('seek', (json) => listener.seek(readSegment(json)));
    source.addEventListener('end', () => {
      stop();
      listener.end();
    });
    source.addEventListener('open', () => {
      delay = RECONNECT_MS_FIRST;
      listener.trouble(null);
    });
    source.addEventListener('error', () => {
      listener.trouble('The connection to the server broke. Trying again.');
      // The browser reconnects by itself after a broken connection, but not after an error status.
      if (source.readyState !== EventSource.CLOSED) return;
      setTimeout(connect, delay);
      delay = Math.min(delay * 2, RECONNECT_MS_MAX);
    });
  };
  connect();
  return stop;
}

async function ask(address: string, method = 'GET', body?: unknown): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(address, {
      method,
      // Whether a film is ready, and what it costs, is asked to be known now.
      cache: 'no-store',
      signal: AbortSignal.timeout(ASK_TIMEOUT_MS),
      ...(body === undefined
        ? {}
        : { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) }),
    });
  } catch {
    throw new Failure('The server cannot be reached.', null);
  }
  if (!response.ok) throw new Failure(await problemWords(response), response.status);
  return response;
}
