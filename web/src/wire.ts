// What the server says, parsed at the door (PROTOCOL.md): everything behind it works with these shapes only.

export interface Video {
  id: string;
  title: string;
  description: string;
  durationMs: number;
  msatPerSecond: bigint;
  previewSeconds: number;
  state: string;
  creator: string;
}

export interface Session {
  playlist: string;
  control: string;
  payee: string;
  msatPerSecond: bigint;
  granularityMsat: bigint;
  /** Null where no segment is paid. */
  firstPaidSegment: number | null;
}

/** An invoice for segments, as the session's event stream offers it. */
export interface Offer {
  segments: number[];
  amountMsat: bigint;
  invoice: string;
  paymentHash: string;
  /** Unix seconds. */
  expiresAt: number;
}

export interface Payment {
  preimage: string;
  amountMsat: bigint;
  /** Null where the wallet does not tell. */
  feeMsat: bigint | null;
}

const VIDEO_ID = /^[0-9a-z-]+$/;

/** The id in `/watch/{video}`, or null: an id of any other shape never reaches a request. */
export function videoIdOf(pathname: string): string | null {
  const last = pathname.split('/').filter((part) => part !== '').at(-1) ?? '';
  return VIDEO_ID.test(last) ? last : null;
}

export function readVideo(json: unknown): Video {
  const video = object(json);
  const creator = video['creator'];
  return {
    id: text(video, 'id'),
    title: text(video, 'title'),
    description: typeof video['description'] === 'string' ? video['description'] : '',
    durationMs: typeof video['duration_ms'] === 'number' ? video['duration_ms'] : 0,
    msatPerSecond: msat(video, 'msat_per_second'),
    previewSeconds: typeof video['preview_seconds'] === 'number' ? video['preview_seconds'] : 0,
    state: text(video, 'state'),
    creator: typeof creator === 'string' ? creator : creator ? text(object(creator), 'name') : '',
  };
}

export function readSession(json: unknown): Session {
  const session = object(json);
  return {
    playlist: ownAddress(text(session, 'playlist')),
    control: ownAddress(text(session, 'control')),
    payee: text(session, 'payee').toLowerCase(),
    msatPerSecond: msat(session, 'msat_per_second'),
    granularityMsat: msat(session, 'granularity_msat'),
    firstPaidSegment: session['first_paid_segment'] == null ? null : count(session['first_paid_segment']),
  };
}

export function readOffer(json: unknown): Offer {
  const offer = object(json);
  return {
    segments: numbers(offer['segments']),
    amountMsat: msat(offer, 'amount_msat'),
    invoice: text(offer, 'invoice').toLowerCase(),
    paymentHash: readPaymentHash(json),
    expiresAt: count(offer['expires_at']),
  };
}

export function readPaymentHash(json: unknown): string {
  return text(object(json), 'payment_hash').toLowerCase();
}

export function readSegment(json: unknown): number {
  return count(object(json)['segment']);
}

export function readPayment(json: unknown): Payment {
  const payment = object(json);
  return {
    preimage: text(payment, 'preimage').toLowerCase(),
    amountMsat: msat(payment, 'amount_msat'),
    feeMsat: payment['fee_msat'] == null ? null : msat(payment, 'fee_msat'),
  };
}

export function readBalance(json: unknown): bigint {
  return msat(object(json), 'spendable_msat');
}

/** The words of an RFC 9457 problem document, else of the status. */
export async function problemWords(response: Response): Promise<string> {
  try {
    const problem = object(await response.json());
    const words = problem['detail'] ?? problem['title'];
    if (typeof words === 'string' && words !== '') return words;
  } catch {
    // Not a problem document: the status has to do.
  }
  return `The server answered ${response.status}${response.statusText ? ` ${response.statusText}` : ''}.`;
}

/** An address on this origin: what the server names is where the page's money and media go, so it stays at home. */
function ownAddress(address: string): string {
  const url = new URL(address, location.origin);
  if (url.origin !== location.origin) throw new Error('The server named an address on another origin.');
  // Whole: a path that begins with two slashes would name another host.
  return url.href;
}

function object(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null) throw new Error('The server sent something else than expected.');
  return value as Record<string, unknown>;
}

function text(from: Record<string, unknown>, key: string): string {
  const value = from[key];
  if (typeof value !== 'string') throw new Error(`The server sent no ${key}.`);
  return value;
}

function msat(from: Record<string, unknown>, key: string): bigint {
  const value = from[key];
  if (!Number.isSafeInteger(value) || (value as number) < 0) throw new Error(`The server sent no proper ${key}.`);
  return BigInt(value as number);
}

function count(value: unknown): number {
  if (!Number.isSafeInteger(value) || (value as number) < 0) throw new Error('The server sent no proper number.');
  return value as number;
}

function numbers(value: unknown): number[] {
  if (!Array.isArray(value)) throw new Error('The server sent no list of segments.');
  return value.map(count);
}
