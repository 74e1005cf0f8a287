import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readSession, videoIdOf } from '../../src/wire.ts';

const PAGE = 'https://film.example';
Object.assign(globalThis, { location: new URL(`${PAGE}/watch/a`) });

function session(address: string) {
  return readSession({
    playlist: address,
    control: '/api/v1/sessions/c',
    payee: '02AB',
    msat_per_second: 2_000,
    granularity_msat: 1_000,
    first_paid_segment: null,
  });
}

test("what the server names lies on the page's origin, however it is written", () => {
  for (const address of ['/s/p/index.m3u8', `${PAGE}/s/p/index.m3u8`, `${PAGE}//evil.example/index.m3u8`]) {
    assert.equal(new URL(session(address).playlist, PAGE).origin, PAGE);
  }
  for (const address of ['//evil.example/x', '/\\evil.example/x', 'https://evil.example/x', 'javascript:alert(1)']) {
    assert.throws(() => session(address), /another origin/);
  }
});

test('an address names a film or none, and never a path', () => {
  assert.equal(videoIdOf('/watch/0199c0ffee'), '0199c0ffee');
  for (const path of ['/watch/..%2f', '/watch/a.b', '/watch/%41', '/']) assert.equal(videoIdOf(path), null);
});
