// The picture of the sluice: water at the left is the wallet's, at the right what was paid; each payment lets drops
// through the gate. Decoration only: every fact in it is also said in figures.

const SVG = 'http://www.w3.org/2000/svg';
/** A drop a satoshi, as far as one can still tell them apart. */
const DROPS_MAX = 10;
const DROP_SPACING_MS = 90;
/** Where the surfaces stand, in the picture's units from its top. */
const UPSTREAM_FULL = 108;
const DOWNSTREAM_EMPTY = 200;
/** Where both meet when all is paid. */
const EVEN = 148;

export class Scene {
  readonly #scene: HTMLElement;
  readonly #drops: Element;
  readonly #upstream: SVGElement;
  readonly #downstream: SVGElement;
  readonly #still = window.matchMedia('(prefers-reduced-motion: reduce)');

  constructor(scene: HTMLElement) {
    this.#scene = scene;
    this.#drops = scene.querySelector('#drops')!;
    this.#upstream = scene.querySelector<SVGElement>('#upstream')!;
    this.#downstream = scene.querySelector<SVGElement>('#downstream')!;
    this.setLevels(0);
  }

  setGate(open: boolean): void {
    this.#scene.dataset['gate'] = open ? 'open' : 'shut';
  }

  /** `share` of the film's price that is paid, 0 to 1. */
  setLevels(share: number): void {
    const part = Math.min(Math.max(share, 0), 1);
    setSurface(this.#upstream, UPSTREAM_FULL + (EVEN - UPSTREAM_FULL) * part);
    setSurface(this.#downstream, DOWNSTREAM_EMPTY + (EVEN - DOWNSTREAM_EMPTY) * part);
  }

  pour(amountMsat: bigint): void {
    if (this.#still.matches) return;
    const count = Math.max(1, Math.min(DROPS_MAX, Number(amountMsat / 1000n)));
    for (let index = 0; index < count; index += 1) {
      const drop = document.createElementNS(SVG, 'circle');
      drop.setAttribute('class', 'drop');
      drop.setAttribute('r', String(3 + (index % 3)));
      drop.style.setProperty('--delay', `${index * DROP_SPACING_MS}ms`);
      drop.style.setProperty('--leap', `${(index % 4) * -9}px`);
      drop.addEventListener('animationend', () => drop.remove());
      this.#drops.append(drop);
    }
  }
}

function setSurface(water: SVGElement, y: number): void {
  water.style.setProperty('--surface', `${y.toFixed(1)}px`);
}
