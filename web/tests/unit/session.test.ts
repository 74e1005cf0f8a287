import assert from 'node:assert/strict';
import { afterEach, beforeEach, test, type TestContext } from 'node:test';
import { followInvoices, type InvoiceListener } from '../../src/session.ts';

/** As much of the browser's EventSource as the page uses; the test plays the server. */
class FakeSource extends EventTarget {
  static readonly CLOSED = 2;
  static opened: FakeSource[] = [];
  readyState = 0;
  readonly url: string;

  constructor(url: string) {
    super();
    this.url = url;
    FakeSource.opened.push(this);
  }

  close(): void {
    this.readyState = FakeSource.CLOSED;
  }

  send(name: string, data = '{}'): void {
    if (this.readyState !== FakeSource.CLOSED) this.dispatchEvent(new MessageEvent(name, { data }));
  }

  open(): void {
    this.readyState = 1;
    this.dispatchEvent(new Event('open'));
  }

  /** The browser gives up after an error status, and reconnects by itself after a broken connection. */
  fail(givesUp: boolean): void {
    this.readyState = givesUp ? FakeSource.CLOSED : 0;
    this.dispatchEvent(new Event('error'));
  }
}

beforeEach(() => {
  FakeSource.opened = [];
  Object.assign(globalThis, { EventSource: FakeSource });
});
afterEach(() => Reflect.deleteProperty(globalThis, 'EventSource'));

function follow(t: TestContext) {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const log: string[] = [];
  const listener: InvoiceListener = {
    invoice: ({ segments }) => log.push(`invoice ${segments}`),
    waiting: (segment) => log.push(`waiting ${segment}`),
    paid: (hash) => log.push(`paid ${hash}`),
    served: (segment) => log.push(`served ${segment}`),
    seek: (segment) => log.push(`seek ${segment}`),
    end: () => log.push('end'),
    trouble: (words) => log.push(`trouble ${words}`),
  };
  const stop = followInvoices('/api/v1/sessions/c', listener);
  return { log, stop, tick: (ms: number) => t.mock.timers.tick(ms), last: () => FakeSource.opened.at(-1)! };
}

test('nothing is heard after the end, and nobody connects again', (t) => {
  const { log, last, tick } = follow(t);
  last().open();
  last().send('end');
  assert.equal(last().readyState, FakeSource.CLOSED);
  last().send('served', '{"segment": 4}');
  tick(120_000);
  assert.deepEqual(log, ['trouble null', 'end']);
  assert.equal(FakeSource.opened.length, 1);
});

test('an end that comes first ends a stream that had broken', (t) => {
  const { log, last, tick } = follow(t);
  last().fail(true);
  tick(2_000);
  last().open();
  last().send('end');
  tick(120_000);
  assert.equal(log.at(-1), 'end');
  assert.equal(FakeSource.opened.length, 2);
});

test('a broken connection is left to the browser, which says where it was', (t) => {
  const { last, tick } = follow(t);
  last().open();
  last().fail(false);
  tick(120_000);
  assert.equal(FakeSource.opened.length, 1);
});

test('a server that refuses the stream is asked again at longer and longer intervals', (t) => {
  const { last, tick } = follow(t);
  for (const delay of [2_000, 4_000, 8_000, 16_000, 30_000, 30_000]) {
    const before = FakeSource.opened.length;
    last().fail(true);
    tick(delay - 1);
    assert.equal(FakeSource.opened.length, before);
    tick(1);
    assert.equal(FakeSource.opened.length, before + 1);
  }
  last().open();
  last().fail(true);
  tick(2_000);
  assert.equal(FakeSource.opened.length, 8);
});

test('who stops between two connections has stopped', (t) => {
  const { stop, last, tick } = follow(t);
  last().fail(true);
  stop();
  tick(120_000);
  assert.equal(FakeSource.opened.length, 1);
});

test('an event that cannot be read is told, and the next one is heard', (t) => {
  const { log, last } = follow(t);
  last().send('served', '{"segment": -1}');
  last().send('served', 'no JSON');
  last().send('served', '{"segment": 4}');
  assert.match(log[0]!, /^trouble The server sent no proper number/);
  assert.match(log[1]!, /^trouble /);
  assert.equal(log[2], 'served 4');
});
