import assert from 'node:assert/strict';
import { test } from 'node:test';
import { afterError, findVideo } from '../../src/finding.ts';
import { Failure } from '../../src/session.ts';
import type { Video } from '../../src/wire.ts';

const NOT_HERE = 'There is no film at this address, or it is not ready to be watched yet.';
const READY = { id: 'a', state: 'ready' } as Video;

/** What is said and waited for while the server answers so, in this order. */
async function looks(...answers: (Video | Error)[]) {
  const log: string[] = [];
  const look = async () => {
    const answer = answers.shift();
    if (answer === undefined) throw new Error('looked once too often');
    if (answer instanceof Error) throw answer;
    return answer;
  };
  const tell = ({ words, trouble }: { words: string; trouble: string | null }) => log.push(trouble ?? words);
  const found = await findVideo(look, tell, async (delayMs) => void log.push(`${delayMs} ms`));
  assert.equal(answers.length, 0);
  return { found, log };
}

const missing = () => new Failure('There is no such title.', 404);
const away = () => new Failure('The server cannot be reached.', null);
const broken = () => new Failure('The server answered 503.', 503);

test('a film that is ready is found at once, without a word', async () => {
  assert.deepEqual(await looks(READY), { found: READY, log: [] });
});

test('what is not there is looked for every 5 s, until it is', async () => {
  const { found, log } = await looks(missing(), missing(), missing(), READY);
  assert.equal(found, READY);
  assert.deepEqual(log, [NOT_HERE, '5000 ms', NOT_HERE, '5000 ms', NOT_HERE, '5000 ms']);
});

test('a film in any other state is not ready, whoever is told so', async () => {
  const { log } = await looks({ ...READY, state: 'transcoding' }, READY);
  assert.deepEqual(log, [NOT_HERE, '5000 ms']);
});

test('a server that fails is asked again at longer and longer intervals', async () => {
  const { log } = await looks(away(), broken(), broken(), broken(), broken(), broken(), READY);
  assert.equal(log[0], 'The server cannot be reached. Trying again.');
  assert.equal(log[2], 'The server answered 503. Trying again.');
  const waits = log.filter((line) => line.endsWith(' ms'));
  assert.deepEqual(waits, ['2000 ms', '4000 ms', '8000 ms', '16000 ms', '30000 ms', '30000 ms']);
});

test('a server that answers again is not waited for as long as before', async () => {
  const { log } = await looks(broken(), broken(), missing(), broken(), READY);
  const waits = log.filter((line) => line.endsWith(' ms'));
  assert.deepEqual(waits, ['2000 ms', '4000 ms', '5000 ms', '2000 ms']);
});

test('too many requests pass; what the server refuses for good does not', async () => {
  assert.equal(afterError(new Failure('Slow down.', 429), 0)?.delayMs, 2_000);
  assert.equal(afterError(new Failure('Not an id.', 400), 0), null);
  await assert.rejects(looks(new Failure('Gone.', 410)), /Gone/);
});

test('an answer that cannot be read may be read the next time', async () => {
  const { log } = await looks(new Error('The server sent no title.'), READY);
  assert.deepEqual(log, ['The server sent no title. Trying again.', '2000 ms']);
});
