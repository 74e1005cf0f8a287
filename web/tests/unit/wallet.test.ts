import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WebLnWallet } from '../../src/wallet.ts';

/** What a browser's wallet that ends a payment with this error is taken to have said. */
async function outcome(error: unknown) {
  const wallet = new WebLnWallet({ enable: async () => {}, sendPayment: () => Promise.reject(error) });
  return wallet.pay('lnbcrt1');
}

const REFUSED = [
  'User rejected',
  'user rejected',
  'User rejected the request.',
  'User cancelled',
  'User canceled the payment',
  'User denied',
  'The user denied this request.',
  'User has declined the payment',
  'Rejected by user',
  'Payment was cancelled by the user.',
];

const NOT_SURE = [
  'request cancelled (timeout)',
  'Request cancelled',
  'User cancelled (timeout)',
  'User rejected: HTLC timed out',
  'Payment rejected',
  'Payment rejected by the node of the user',
  'HTLC rejected by peer',
  'permission denied',
  'Access denied by user node',
  'Prompt was closed',
  'context canceled',
  'cancelled',
  'rejected',
  'Payment timed out',
  'not User rejected',
  'User rejected\nafter the payment was sent',
  '',
];

for (const words of REFUSED) {
  test(`"${words}" is the viewer's refusal`, async () => {
    assert.equal((await outcome(new Error(words))).kind, 'declined');
  });
}

for (const words of NOT_SURE) {
  test(`after ${JSON.stringify(words)} the payment may still go through`, async () => {
    assert.equal((await outcome(new Error(words))).kind, 'unknown');
  });
}

test('an error that is no Error is read too', async () => {
  assert.equal((await outcome('User rejected')).kind, 'declined');
  assert.equal((await outcome({ message: 'User rejected' })).kind, 'declined');
  assert.equal((await outcome(undefined)).kind, 'unknown');
});

test('a wallet that never answers is not waited for without end', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const silent = new WebLnWallet({ enable: async () => {}, sendPayment: () => new Promise(() => {}) });
  const paid = silent.pay('lnbcrt1');
  t.mock.timers.tick(120_000);
  assert.equal((await paid).kind, 'unknown');
});

test('an answer without a preimage proves nothing', async () => {
  const sendPayment = async () => ({}) as { preimage: string };
  const wallet = new WebLnWallet({ enable: async () => {}, sendPayment });
  assert.equal((await wallet.pay('lnbcrt1')).kind, 'unknown');
});
