// How long the viewer watched, stalls included, pauses not: the time that bounds what may be spent.

export class WatchClock {
  #elapsedMs = 0;
  #since: number | null = null;

  constructor(video: HTMLMediaElement) {
    video.addEventListener('play', () => (this.#since ??= performance.now()));
    const halt = () => {
      this.#elapsedMs = this.elapsedMs();
      this.#since = null;
    };
    video.addEventListener('pause', halt);
    video.addEventListener('ended', halt);
  }

  elapsedMs(): number {
    return this.#elapsedMs + (this.#since === null ? 0 : performance.now() - this.#since);
  }
}
