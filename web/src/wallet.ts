// The viewer's wallet. Two kinds so far: the demo's wallet, reached over HTTP on this origin, and WebLN. Nostr Wallet
// Connect is to be a third.

import { sha256 } from '@noble/hashes/sha2.js';
import { bytesToHex, hexToBytes } from '@noble/hashes/utils.js';
import { problemWords, readBalance, readPayment, type Payment } from './wire.ts';

/** How a payment ended. `unknown` may still go through: nobody pays for the same thing again on its account. */
export type Outcome =
  | { kind: 'paid'; payment: Payment }
  | { kind: 'declined' }
  | { kind: 'failed'; words: string }
  | { kind: 'unknown'; words: string };

export interface Wallet {
  readonly name: string;
  /** Asks the viewer's leave, where the wallet wants it; called within a click. */
  enable(): Promise<void>;
  pay(invoice: string): Promise<Outcome>;
  /** Null where the wallet does not tell. */
  balanceMsat(): Promise<bigint | null>;
}

interface WebLn {
  enable(): Promise<unknown>;
  sendPayment(invoice: string): Promise<{ preimage: string }>;
}

declare global {
  interface Window {
    webln?: WebLn;
  }
}

const STORAGE_KEY = 'sluice.wallet';
/** Longer than a Lightning payment takes with all its retries; what is not answered by then is `unknown`. */
const PAY_TIMEOUT_MS = 60_000;
const BALANCE_TIMEOUT_MS = 10_000;
/**
 * Time to read a prompt and for the payment after it. A browser's wallet may also never answer: its extension can be
 * put to sleep, and the promise with it.
 */
const PROMPT_TIMEOUT_MS = 120_000;
/**
 * Whole messages that say that the viewer said no: WebLN has no codes. Never a part of one, because "cancelled
 * (timeout)" is said of payments under way. Nor "Prompt was closed": Alby pays while its prompt is still open.
 */
const SAID_NO = '(?:rejected|denied|declined|refused|cancell?ed)';
const REFUSALS = [
  new RegExp(`^(?:the )?user (?:has )?${SAID_NO}(?: (?:the|this))?(?: (?:request|prompt|payment|invoice))?[.!]?$`, 'i'),
  new RegExp(`^(?:(?:the )?(?:request|payment) (?:was )?)?${SAID_NO} by (?:the )?user[.!]?$`, 'i'),
];

/**
 * The wallet that this page was given: by its address's fragment, which is a secret and leaves the address bar at
 * once; by an earlier load in this tab; or by the browser.
 */
export function findWallet(): Wallet | null {
  const storage = tabStorage();
  const address = takeFragment() ?? storage?.getItem(STORAGE_KEY) ?? null;
  const url = address === null ? null : sameOrigin(address);
  if (url) {
    storage?.setItem(STORAGE_KEY, url);
    return new HttpWallet(url);
  }
  return window.webln ? new WebLnWallet(window.webln) : null;
}

async function within<T>(limitMs: number, promised: Promise<T>, words: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(words)), limitMs);
  });
  try {
    return await Promise.race([promised, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Null where the browser keeps nothing for sites: it throws then at the mere name. */
function tabStorage(): Storage | null {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}

function takeFragment(): string | null {
  const address = new URLSearchParams(location.hash.slice(1)).get('wallet');
  if (address !== null) history.replaceState(history.state, '', location.pathname + location.search);
  return address;
}

function sameOrigin(address: string): string | null {
  try {
    const url = new URL(address, location.origin);
    return url.origin === location.origin ? url.origin + url.pathname.replace(/\/+$/, '') : null;
  } catch {
    return null;
  }
}

/** Whether the preimage opens the hash: the only proof that an invoice was paid. */
export function proves(preimage: string, paymentHash: string): boolean {
  try {
    return bytesToHex(sha256(hexToBytes(preimage))) === paymentHash;
  } catch {
    return false;
  }
}

class HttpWallet implements Wallet {
  readonly name = 'demo';
  readonly #url: string;

  constructor(url: string) {
    this.#url = url;
  }

  async enable(): Promise<void> {}

  async pay(invoice: string): Promise<Outcome> {
    let response: Response;
    try {
      response = await fetch(`${this.#url}/pay`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ invoice }),
        signal: AbortSignal.timeout(PAY_TIMEOUT_MS),
      });
      if (response.ok) return { kind: 'paid', payment: readPayment(await response.json()) };
    } catch {
      return { kind: 'unknown', words: 'The wallet did not answer.' };
    }
    const words = await problemWords(response);
    // Only a 4xx says that nothing was sent; after a 5xx the payment may be under way.
    return { kind: response.status < 500 ? 'failed' : 'unknown', words };
  }

  async balanceMsat(): Promise<bigint | null> {
    const response = await fetch(`${this.#url}/balance`, { signal: AbortSignal.timeout(BALANCE_TIMEOUT_MS) });
    if (!response.ok) throw new Error(await problemWords(response));
    return readBalance(await response.json());
  }
}

export class WebLnWallet implements Wallet {
  readonly name = 'browser';
  readonly #webln: WebLn;

  constructor(webln: WebLn) {
    this.#webln = webln;
  }

  async enable(): Promise<void> {
    await this.#webln.enable();
  }

  async pay(invoice: string): Promise<Outcome> {
    try {
      const answer = this.#webln.sendPayment(invoice);
      const { preimage } = await within(PROMPT_TIMEOUT_MS, answer, 'no answer yet');
      return { kind: 'paid', payment: { preimage: preimage.toLowerCase(), amountMsat: 0n, feeMsat: null } };
    } catch (error) {
      const words = String((error as { message?: unknown } | null)?.message ?? error).trim();
      if (REFUSALS.some((refusal) => refusal.test(words))) return { kind: 'declined' };
      return { kind: 'unknown', words: `The wallet said: “${words}”.` };
    }
  }

  async balanceMsat(): Promise<bigint | null> {
    return null;
  }
}
