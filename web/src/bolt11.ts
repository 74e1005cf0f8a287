// BOLT 11 invoices, read strictly enough to decide about money. Signature and payee are recovered, not believed.
// Pure. Source: https://github.com/lightning/bolts/blob/master/11-payment-encoding.md

import { secp256k1 } from '@noble/curves/secp256k1.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { bytesToHex, concatBytes, utf8ToBytes } from '@noble/hashes/utils.js';
import { bech32 } from '@scure/base';

export interface RouteHop {
  feeBaseMsat: bigint;
  feePartsPerMillion: bigint;
}

export interface Invoice {
  /** Prefix of the chain: bc, tb, tbs, bcrt. */
  network: string;
  /** Null where the payer chooses. */
  amountMsat: bigint | null;
  /** Unix seconds. */
  createdAt: number;
  /** Unix seconds. */
  expiresAt: number;
  paymentHash: string;
  /** The node id that signed, compressed, in hex. */
  payee: string;
  routeHints: RouteHop[][];
}

/** Seconds an invoice stays good when it does not say so itself. */
const EXPIRY_DEFAULT = 3600;
const SIGNATURE_WORDS = 104;
const TIMESTAMP_WORDS = 7;
/** Longest prefix first: `bcrt` begins with `bc`. */
const PREFIX = /^ln(bcrt|bc|tbs|tb)(?:(\d+)([munp]?))?$/;
/** Picobitcoin a unit of the multiplier is worth; a tenth of one is a millisatoshi's tenth. */
const PICOBITCOIN: Record<string, bigint> = { '': 10n ** 12n, m: 10n ** 9n, u: 10n ** 6n, n: 1000n, p: 1n };
const TAG = { paymentHash: 1, routeHint: 3, expiry: 6, payee: 19 } as const;
const HASH_WORDS = 52;
const NODE_ID_WORDS = 53;
const HOP_BYTES = 51;

/** @throws Error in words when the text is no well-formed, validly signed invoice. */
export function decodeInvoice(text: string): Invoice {
  const { prefix, words } = bech32.decode(text as `${string}1${string}`, false);
  const match = PREFIX.exec(prefix);
  if (!match) throw new Error('it is for an unknown network or its amount is malformed');
  if (words.length < TIMESTAMP_WORDS + SIGNATURE_WORDS) throw new Error('it is too short');

  const signed = words.slice(0, -SIGNATURE_WORDS);
  const createdAt = toNumber(signed.slice(0, TIMESTAMP_WORDS));
  const fields = readFields(signed.slice(TIMESTAMP_WORDS));
  const paymentHash = fields.paymentHash;
  if (!paymentHash) throw new Error('it has no payment hash');
  const payee = recoverPayee(prefix, signed, words.slice(-SIGNATURE_WORDS));
  if (fields.payee && fields.payee !== payee) throw new Error('its signature is not by the payee that it names');

  return {
    network: match[1]!,
    amountMsat: match[2] === undefined ? null : toMsat(match[2], match[3]!),
    createdAt,
    expiresAt: createdAt + fields.expirySeconds,
    paymentHash,
    payee,
    routeHints: fields.routeHints,
  };
}

function toMsat(digits: string, multiplier: string): bigint {
  const pico = BigInt(digits) * PICOBITCOIN[multiplier]!;
  if (pico % 10n !== 0n) throw new Error('its amount is no whole millisatoshi');
  return pico / 10n;
}

function readFields(words: number[]) {
  let paymentHash: string | undefined;
  let payee: string | undefined;
  let expirySeconds: number | undefined;
  const routeHints: RouteHop[][] = [];
  let at = 0;
  while (at < words.length) {
    const tag = words[at]!;
    const length = toNumber(words.slice(at + 1, at + 3));
    const data = words.slice(at + 3, at + 3 + length);
    if (at + 3 + length > words.length) throw new Error('a field is cut off');
    at += 3 + length;
    // Of a repeated field the first counts, and one of a wrong length is skipped (BOLT 11).
    if (tag === TAG.paymentHash && length === HASH_WORDS) paymentHash ??= bytesToHex(bech32.fromWords(data));
    else if (tag === TAG.payee && length === NODE_ID_WORDS) payee ??= bytesToHex(bech32.fromWords(data));
    else if (tag === TAG.expiry) expirySeconds ??= toNumber(data);
    else if (tag === TAG.routeHint) routeHints.push(readHops(bech32.fromWords(data)));
  }
  return { paymentHash, payee, expirySeconds: expirySeconds ?? EXPIRY_DEFAULT, routeHints };
}

/** A hop: node id (33 bytes), short channel id (8), base fee (4), proportional fee (4), CLTV delta (2). */
function readHops(bytes: Uint8Array): RouteHop[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const hops: RouteHop[] = [];
  for (let at = 0; at + HOP_BYTES <= bytes.length; at += HOP_BYTES) {
    hops.push({
      feeBaseMsat: BigInt(view.getUint32(at + 41)),
      feePartsPerMillion: BigInt(view.getUint32(at + 45)),
    });
  }
  return hops;
}

/** The signature is over the prefix and the data, the data's bits padded with zeros to whole bytes. */
function recoverPayee(prefix: string, signed: number[], signature: number[]): string {
  const bytes = bech32.fromWords(signature);
  const message = sha256(concatBytes(utf8ToBytes(prefix), padToBytes(signed)));
  const recovery = bytes[64]!;
  if (recovery > 3) throw new Error('its signature is malformed');
  const recovered = concatBytes(Uint8Array.of(recovery), bytes.slice(0, 64));
  try {
    return bytesToHex(secp256k1.recoverPublicKey(recovered, message, { prehash: false }));
  } catch {
    throw new Error('its signature is not valid');
  }
}

function padToBytes(words: number[]): Uint8Array {
  const bytes = new Uint8Array(Math.ceil((words.length * 5) / 8));
  words.forEach((word, index) => {
    for (let bit = 0; bit < 5; bit += 1) {
      const position = index * 5 + bit;
      if (word & (16 >> bit)) bytes[position >> 3]! |= 128 >> (position & 7);
    }
  });
  return bytes;
}

function toNumber(words: number[]): number {
  return words.reduce((total, word) => total * 32 + word, 0);
}
