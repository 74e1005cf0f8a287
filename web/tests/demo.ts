// The demo that the browser tests run against: one that is up already, or one started and stopped here.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

export interface Demo {
  base_url: string;
  video: string;
  wallet_url: string;
  creator_key: string;
  stop: () => Promise<void>;
}

/** The demo starts bitcoind and several nodes and transcodes a film before it says that it is ready. */
const START_MS = 180_000;
/** Stopping closes channels' state and the store in order. */
const STOP_MS = 60_000;

export async function startDemo(): Promise<Demo> {
  const line = process.env['SLUICE_DEMO'];
  if (line) return { ...parse(line), stop: async () => {} };
  const exe = process.env['SLUICE_EXE'];
  if (!exe) throw new Error('set SLUICE_DEMO (the line of JSON of a running demo) or SLUICE_EXE (the executable)');

  const args = (process.env['SLUICE_DEMO_ARGS'] ?? '').split(/\s+/).filter((arg) => arg !== '');
  const child = spawn(exe, ['demo', '--json', ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGINT');
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
    const [code, signal] = await exited;
    clearTimeout(timer);
    if (code !== 0) throw new Error(`the demo ended with ${signal ?? `code ${code}`}`);
  };
  try {
    const first = once(createInterface({ input: child.stdout }), 'line', { signal: AbortSignal.timeout(START_MS) });
    const ended = exited.then(([code]) => Promise.reject(new Error(`the demo ended early, with code ${code}`)));
    ended.catch(() => {});
    const [ready] = (await Promise.race([first, ended])) as [string];
    return { ...parse(ready), stop };
  } catch (error) {
    await stop().catch(() => {});
    throw error;
  }
}

function parse(line: string): Omit<Demo, 'stop'> {
  const { base_url, video, wallet_url, creator_key } = JSON.parse(line) as Record<string, unknown>;
  if (typeof base_url !== 'string' || typeof video !== 'string' || typeof wallet_url !== 'string') {
    throw new Error(`the demo's line lacks base_url, video or wallet_url: ${Object.keys(JSON.parse(line))}`);
  }
  return { base_url: new URL(base_url).origin, video, wallet_url, creator_key: String(creator_key) };
}
