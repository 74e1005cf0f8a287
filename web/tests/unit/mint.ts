// Mints signed BOLT 11 invoices for the tests: sound ones by default, and unsound in each way a test asks for.

import { secp256k1 } from '@noble/curves/secp256k1.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { bytesToHex, concatBytes, hexToBytes, utf8ToBytes } from '@noble/hashes/utils.js';
import { bech32 } from '@scure/base';

export interface Wanted {
  /** Human-readable part, amount included: `lnbcrt80n` is 8 satoshis on regtest. */
  prefix?: string;
  amountMsat?: bigint;
  paymentHash?: string;
  createdAt?: number;
  expirySeconds?: number;
  key?: Uint8Array;
  /** Base fee and parts per million of a single route hint. */
  hint?: [number, number];
}

export const NODE_KEY = new Uint8Array(32).fill(7);
export const NODE_ID = bytesToHex(secp256k1.getPublicKey(NODE_KEY));
export const HASH = '0001020304050607080900010203040506070809000102030405060708090102';

export function mint(wanted: Wanted = {}): string {
  // A tenth of a unit of the multiplier p is one millisatoshi.
  const amount = wanted.amountMsat === undefined ? '80n' : `${wanted.amountMsat * 10n}p`;
  const prefix = wanted.prefix ?? `lnbcrt${amount}`;
  const data = [
    ...number(wanted.createdAt ?? Math.floor(Date.now() / 1000), 7),
    ...field(1, bech32.toWords(hexToBytes(wanted.paymentHash ?? HASH))),
    ...field(13, bech32.toWords(utf8ToBytes('Sluice'))),
    ...field(6, number(wanted.expirySeconds ?? 600, 4)),
    ...(wanted.hint ? field(3, bech32.toWords(hop(...wanted.hint))) : []),
    ...field(16, bech32.toWords(new Uint8Array(32).fill(1))),
  ];
  const message = sha256(concatBytes(utf8ToBytes(prefix), pad(data)));
  const signed = secp256k1.sign(message, wanted.key ?? NODE_KEY, { prehash: false, format: 'recovered' });
  const signature = concatBytes(signed.slice(1), signed.slice(0, 1));
  return bech32.encode(prefix, [...data, ...bech32.toWords(signature)], false);
}

function hop(feeBase: number, partsPerMillion: number): Uint8Array {
  const bytes = new Uint8Array(51).fill(2);
  const view = new DataView(bytes.buffer);
  view.setUint32(41, feeBase);
  view.setUint32(45, partsPerMillion);
  return bytes;
}

function field(tag: number, words: number[]): number[] {
  return [tag, ...number(words.length, 2), ...words];
}

function number(value: number, words: number): number[] {
  return Array.from({ length: words }, (_, index) => Math.floor(value / 32 ** (words - 1 - index)) % 32);
}

function pad(words: number[]): Uint8Array {
  const bits = words.map((word) => word.toString(2).padStart(5, '0')).join('');
  const padded = bits.padEnd(Math.ceil(bits.length / 8) * 8, '0');
  return Uint8Array.from(padded.match(/.{8}/g) ?? [], (byte) => Number.parseInt(byte, 2));
}
