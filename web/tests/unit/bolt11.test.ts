import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeInvoice } from '../../src/bolt11.ts';
import { HASH, mint, NODE_ID } from './mint.ts';

// From the examples of BOLT 11 ("Please send $3 for a cup of coffee ... within one minute").
const SPECIFICATION =
  'lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwz' +
  'qfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0' +
  'ymjpf39tuven09sam30g4vgpfna3rh';

test("the specification's example is read, and its signer recovered", () => {
  const invoice = decodeInvoice(SPECIFICATION);
  assert.equal(invoice.network, 'bc');
  assert.equal(invoice.amountMsat, 250_000_000n);
  assert.equal(invoice.createdAt, 1_496_314_658);
  assert.equal(invoice.expiresAt, 1_496_314_658 + 60);
  assert.equal(invoice.paymentHash, HASH);
  assert.equal(invoice.payee, '03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad');
});

test('what was minted is read again', () => {
  const invoice = decodeInvoice(mint({ amountMsat: 1_001n, createdAt: 1_700_000_000, hint: [1_000, 10] }));
  assert.equal(invoice.network, 'bcrt');
  assert.equal(invoice.amountMsat, 1_001n);
  assert.equal(invoice.expiresAt, 1_700_000_600);
  assert.equal(invoice.payee, NODE_ID);
  assert.deepEqual(invoice.routeHints, [[{ feeBaseMsat: 1_000n, feePartsPerMillion: 10n }]]);
});

test('every multiplier is worth what it should', () => {
  const worth = (prefix: string) => decodeInvoice(mint({ prefix })).amountMsat;
  assert.equal(worth('lnbc1'), 100_000_000_000n);
  assert.equal(worth('lnbc1m'), 100_000_000n);
  assert.equal(worth('lntb1u'), 100_000n);
  assert.equal(worth('lntbs1n'), 100n);
  assert.equal(worth('lnbcrt10p'), 1n);
  assert.equal(worth('lnbcrt'), null);
  assert.throws(() => worth('lnbc1p'), /millisatoshi/);
  assert.throws(() => worth('lnxy1u'), /network/);
});

test('a changed letter is noticed', () => {
  const invoice = mint();
  const at = invoice.length - 30;
  const other = invoice[at] === 'q' ? 'p' : 'q';
  assert.throws(() => decodeInvoice(invoice.slice(0, at) + other + invoice.slice(at + 1)));
});

test('what is no invoice at all is refused, not misread', () => {
  for (const text of ['', 'lnbc', 'hello', 'lnbc1qqqqqq', 'bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq']) {
    assert.throws(() => decodeInvoice(text));
  }
});
