// How the page finds its film: it looks until the film can be watched, and says in words why it cannot yet.

import { Failure } from './session.ts';
import type { Video } from './wire.ts';

/** A look that found nothing to play. */
export interface Setback {
  /** Where things stand. */
  words: string;
  /** What went wrong; null where nothing did. */
  trouble: string | null;
  /** When to look again. */
  delayMs: number;
}

/** To strangers the server does not tell one from the other. */
const NOT_HERE = 'There is no film at this address, or it is not ready to be watched yet.';
/** Soon enough for somebody who waits for a film that is being prepared. */
const LOOK_EVERY_MS = 5_000;
const BACKOFF_MS_FIRST = 2_000;
const BACKOFF_MS_MAX = 30_000;
/** Those of a client's errors that pass: a request that took too long, and too many of them. */
const PASSING_STATUSES = [408, 425, 429];

/** Looks until there is a film to play. Throws what another look does not mend. */
export async function findVideo(
  look: () => Promise<Video>,
  tell: (setback: Setback) => void,
  wait: (delayMs: number) => Promise<void>,
): Promise<Video> {
  for (let failures = 0; ; ) {
    let setback: Setback;
    try {
      const video = await look();
      if (video.state === 'ready') return video;
      setback = notHere();
    } catch (error) {
      const found = afterError(error, failures);
      if (found === null) throw error;
      setback = found;
    }
    failures = setback.trouble === null ? 0 : failures + 1;
    tell(setback);
    await wait(setback.delayMs);
  }
}

/** What an error means after so many failures in a row; null where another look would only meet it again. */
export function afterError(error: unknown, failures: number): Setback | null {
  const status = error instanceof Failure ? error.status : null;
  if (status === 404) return notHere();
  if (status !== null && status < 500 && !PASSING_STATUSES.includes(status)) return null;
  return {
    words: 'This film cannot be shown now.',
    trouble: `${(error as Error).message} Trying again.`,
    delayMs: Math.min(BACKOFF_MS_FIRST * 2 ** failures, BACKOFF_MS_MAX),
  };
}

function notHere(): Setback {
  return { words: NOT_HERE, trouble: null, delayMs: LOOK_EVERY_MS };
}
