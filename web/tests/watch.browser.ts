// The watch page in a real Chromium against a running server. Which server: the demo whose one line of JSON is in
// SLUICE_DEMO; else the executable SLUICE_EXE, started with `demo --json` and SLUICE_DEMO_ARGS, and stopped again.
// SLUICE_SCREENSHOT names a file for a picture of the page while it pays; SLUICE_CHROMIUM another browser.

import assert from 'node:assert/strict';
import { chromium, type Browser, type Page } from 'playwright-core';
import { startDemo, type Demo } from './demo.ts';

const CHROMIUM = process.env['SLUICE_CHROMIUM'] ?? '/usr/bin/chromium';
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--autoplay-policy=no-user-gesture-required',
];
const PATIENCE_MS = 90_000;
/** How far beyond the preview the film must play, in seconds: into the second paid segment. */
const BEYOND_PREVIEW = 6;
const HOSTILE = '<img src=x onerror=alert(1)>';

interface Watched {
  page: Page;
  /** What must not happen: console errors, errors of the page, requests to elsewhere, dialogs. */
  faults: string[];
}

interface Context {
  demo: Demo;
  open: (path: string, before?: (page: Page) => Promise<void>) => Promise<Watched>;
}

const tests: Record<string, (context: Context) => Promise<void>> = {
  async 'a viewer with a wallet pays for what he watches'({ demo, open }) {
    const facts = await video(demo);
    const before = await balance(demo);
    const { page, faults } = await open(`/watch/${demo.video}#wallet=${encodeURIComponent(demo.wallet_url)}`);
    await page.getByRole('button', { name: 'Play' }).click();
    await waitForTime(page, facts.previewSeconds + BEYOND_PREVIEW);
    await page.waitForFunction(() => Number(document.getElementById('meter')?.dataset['paidSegments']) >= 3, null, {
      timeout: PATIENCE_MS,
    });
    if (process.env['SLUICE_SCREENSHOT']) await page.screenshot({ path: process.env['SLUICE_SCREENSHOT'] });
    assert.ok(!page.url().includes('#'), 'the wallet is still in the address bar');

    // Read before the balance, so that a payment in between can only make the difference larger.
    const paidMsat = await meter(page, 'paidMsat');
    const spent = before - (await balance(demo));
    assert.ok(paidMsat > 0, 'the meter shows no payment');
    assert.ok(spent >= paidMsat, `the page says ${paidMsat} msat, the wallet has only ${spent} less`);
    assert.deepEqual(faults, []);
  },

  async 'the gate shuts when the viewer stops paying, and opens again'({ demo, open }) {
    const { page } = await open(`/watch/${demo.video}#wallet=${encodeURIComponent(demo.wallet_url)}`);
    await page.getByRole('button', { name: 'Play' }).click();
    // At the first payment, while a short film still has unpaid segments.
    await paidMoreThan(page, 0);
    await page.getByRole('button', { name: 'Stop paying' }).click();
    // One payment may be under way in that moment.
    await page.waitForTimeout(1_000);
    const paid = await meter(page, 'paidMsat');
    await page.waitForTimeout(5_000);
    assert.equal(await meter(page, 'paidMsat'), paid, 'a payment was made after the viewer had stopped');
    await page.getByRole('button', { name: 'Resume' }).click();
    await paidMoreThan(page, paid);
  },

  async 'a hostile title is shown as text'({ demo, open }) {
    const { page, faults } = await open(`/watch/${demo.video}`, async (page) => {
      await page.route('**/api/v1/videos/*', async (route) => {
        const response = await route.fetch();
        const json = (await response.json()) as object;
        await route.fulfill({ response, json: { ...json, title: HOSTILE, description: HOSTILE, creator: HOSTILE } });
      });
    });
    await page.getByRole('heading', { name: HOSTILE }).waitFor({ timeout: PATIENCE_MS });
    assert.equal(await page.locator('main img').count(), 0);
    assert.equal(await page.title(), `${HOSTILE} · Sluice`);
    assert.deepEqual(faults, []);
  },

  async 'a film that is not ready yet can be played once it is, without a reload'({ demo, open }) {
    let looks = 0;
    const { page } = await open(`/watch/${demo.video}`, async (page) => {
      await page.route('**/api/v1/videos/*', async (route) => {
        looks += 1;
        // What strangers are told while a film is being prepared.
        if (looks === 1) await route.fulfill({ status: 404, json: { title: 'Not Found' } });
        else if (looks === 2) await route.abort();
        else await route.continue();
      });
    });
    await page.getByText('There is no film at this address, or it is not ready').waitFor({ timeout: PATIENCE_MS });
    await page.getByText('The server cannot be reached. Trying again.').waitFor({ timeout: PATIENCE_MS });
    await page.getByRole('button', { name: 'Play' }).click({ timeout: PATIENCE_MS });
    await waitForTime(page, 1);
    assert.equal(looks, 3);
  },

  async 'without a wallet the preview plays, and the page says that one is needed'({ demo, open }) {
    const { page, faults } = await open(`/watch/${demo.video}`);
    await page.getByRole('button', { name: 'Play' }).click();
    await waitForTime(page, 1);
    assert.match((await page.getByRole('status').textContent()) ?? '', /wallet is needed/i);
    const invoice = page.getByLabel('Lightning invoice');
    await invoice.waitFor({ state: 'visible', timeout: PATIENCE_MS });
    assert.match(await invoice.inputValue(), /^ln[a-z0-9]+$/);
    assert.equal(await meter(page, 'paidMsat'), 0);
    assert.deepEqual(faults, []);
  },

  async 'a wallet on another origin is not used'({ demo, open }) {
    const { page, faults } = await open(`/watch/${demo.video}#wallet=${encodeURIComponent('http://192.0.2.1/wallet')}`);
    await page.getByRole('button', { name: 'Play' }).waitFor({ timeout: PATIENCE_MS });
    assert.equal(await page.locator('#wallet-name').textContent(), 'none');
    assert.deepEqual(faults, []);
  },
};

async function main(): Promise<number> {
  let passed = 0;
  let failed = 0;
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
  try {
    const demo = await startDemo();
    try {
      for (const [name, test] of Object.entries(tests)) {
        const began = performance.now();
        try {
          await inContext(browser, demo, test);
          passed += 1;
          console.log(`ok    ${name} (${Math.round(performance.now() - began)} ms)`);
        } catch (error) {
          failed += 1;
          console.log(`FAIL  ${name}\n${(error as Error).stack}`);
        }
      }
    } finally {
      await demo.stop();
    }
  } catch (error) {
    failed += 1;
    console.log(`FAIL  demo\n${(error as Error).stack}`);
  } finally {
    await browser.close();
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}

async function inContext(browser: Browser, demo: Demo, test: (context: Context) => Promise<void>): Promise<void> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 } });
  const open = async (path: string, before?: (page: Page) => Promise<void>): Promise<Watched> => {
    const page = await context.newPage();
    const faults: string[] = [];
    page.on('console', (message) => {
      // An unpaid segment's 402 is the protocol at work, though Chromium logs it as an error.
      const unpaid = message.text().includes('402') && message.location().url.endsWith('.m4s');
      if (message.type() === 'error' && !unpaid) faults.push(`${message.text()} (${message.location().url})`);
    });
    page.on('pageerror', (error) => faults.push(String(error)));
    page.on('dialog', (dialog) => {
      faults.push(`dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
    page.on('request', (request) => {
      const url = new URL(request.url());
      if (url.protocol !== 'blob:' && url.origin !== demo.base_url) faults.push(`request to ${url.href}`);
    });
    await before?.(page);
    await page.goto(demo.base_url + path);
    return { page, faults };
  };
  try {
    await test({ demo, open });
  } catch (error) {
    for (const page of context.pages()) {
      const said = await page.locator('#status, .notice').allTextContents().catch(() => []);
      console.log(`      the page says: ${said.join(' | ')}`);
    }
    throw error;
  } finally {
    await context.close();
  }
}

async function waitForTime(page: Page, seconds: number): Promise<void> {
  await page.waitForFunction((least) => (document.querySelector('video')?.currentTime ?? 0) >= least, seconds, {
    timeout: PATIENCE_MS,
  });
}

async function paidMoreThan(page: Page, msat: number): Promise<void> {
  await page.waitForFunction((was) => Number(document.getElementById('meter')?.dataset['paidMsat']) > was, msat, {
    timeout: PATIENCE_MS,
  });
}

async function meter(page: Page, key: string): Promise<number> {
  return Number(await page.evaluate((name) => document.getElementById('meter')?.dataset[name], key));
}

async function balance(demo: Demo): Promise<number> {
  return ((await get(`${demo.wallet_url}/balance`)) as { spendable_msat: number }).spendable_msat;
}

async function video(demo: Demo): Promise<{ previewSeconds: number }> {
  const facts = (await get(`${demo.base_url}/api/v1/videos/${demo.video}`)) as Record<string, number>;
  const previewSeconds = facts['preview_seconds'] ?? 0;
  const seconds = facts['duration_ms']! / 1000;
  assert.ok(seconds > previewSeconds + BEYOND_PREVIEW, `the demo's film is too short (${seconds} s) for this test`);
  return { previewSeconds };
}

async function get(url: string): Promise<unknown> {
  const response = await fetch(url);
  assert.ok(response.ok, `GET ${url}: ${response.status}`);
  return response.json();
}

main().then(
  (code) => process.exit(code),
  (error: Error) => {
    console.log(`FAIL  browser\n${error.message}`);
    console.log('0 passed, 1 failed');
    process.exit(1);
  },
);
