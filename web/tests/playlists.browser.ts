// Programs that nobody here wrote read a film's playlists without a warning: ffprobe, an independent parser, and hls.js and Shaka
// in a real Chromium, which also play it. The film has subtitles, chapters, pictures for scrubbing and an audio rung. Which server: as
// watch.browser.ts has it.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { chromium, type Browser, type Page } from 'playwright-core';
import { startDemo, type Demo } from './demo.ts';

const CHROMIUM = process.env['SLUICE_CHROMIUM'] ?? '/usr/bin/chromium';
const FLAGS = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--autoplay-policy=no-user-gesture-required'];
const PATIENCE_MS = 90_000;
const SECONDS = 21;
const run = promisify(execFile);
const require = createRequire(import.meta.url);

interface Parsed {
  playlists?: { uri: string; attributes: Record<string, unknown> }[];
  iFramePlaylists?: { uri: string; attributes: Record<string, unknown> }[];
  mediaGroups?: { SUBTITLES: Record<string, Record<string, { uri: string; language: string; default: boolean }>> };
  segments: { duration: number; uri: string; byterange?: { length: number; offset: number }; map?: { uri: string } }[];
  targetDuration?: number;
  endList?: boolean;
  iFramesOnly?: boolean;
}

interface Film {
  base: string;
  playlist: string;
}

const tests: Record<string, (film: Film, browser: Browser) => Promise<void>> = {
  async 'ffprobe reads the film and says nothing but that it knows no subtitles'({ playlist }) {
    const probe = ['-loglevel', 'warning', '-show_entries', 'stream=codec_name,codec_type', '-of', 'csv=p=0', playlist];
    const { stdout, stderr } = await run('ffprobe', probe);
    // FFmpeg's demuxer says so of every subtitle in a multivariant playlist, whatever it is (libavformat/hls.c).
    const unsupported = /^\[hls @ \w+\] Can't support the subtitle\(uri: .*\)\n/gm;
    assert.equal(stderr.replace(unsupported, ''), '');
    for (const stream of ['h264,video', 'aac,audio']) assert.ok(stdout.includes(stream), stdout);
  },

  async 'an independent parser reads all playlists without a warning'({ playlist }) {
    const master = await parsed(playlist);
    assert.ok(master.playlists && master.playlists.length >= 2);
    for (const { uri, attributes } of master.playlists) {
      const needed = ['BANDWIDTH', 'AVERAGE-BANDWIDTH', 'CODECS', 'SUBTITLES'];
      if (!uri.includes('/audio/')) needed.push('RESOLUTION', 'FRAME-RATE');
      for (const key of needed) assert.ok(attributes[key], `${uri} has no ${key}`);
      const media = await parsed(new URL(uri, playlist).href);
      const sum = media.segments.reduce((all, segment) => all + segment.duration, 0);
      assert.ok(Math.abs(sum - SECONDS) < 0.1, `${uri} is ${sum} s long`);
      assert.ok(media.segments[0]?.map?.uri && media.endList);
      await measured(new URL(uri, playlist), media, attributes);
    }
    const subtitles = master.mediaGroups?.SUBTITLES['subs'] ?? {};
    assert.deepEqual(Object.keys(subtitles), ['English']);
    const english = subtitles['English']!;
    assert.equal(english.language, 'en');
    const boundaries = (media: Parsed) => media.segments.map((segment) => segment.duration);
    const media = await parsed(new URL(master.playlists[0]!.uri, playlist).href);
    assert.deepEqual(boundaries(await parsed(new URL(english.uri, playlist).href)), boundaries(media));
    const frames = new URL(master.iFramePlaylists![0]!.uri, playlist).href;
    const pictures = await parsed(frames);
    assert.ok(pictures.iFramesOnly && pictures.segments.length === 4, 'one picture each five seconds or more');
    for (const { duration, byterange, uri } of pictures.segments.slice(0, -1)) {
      assert.ok(duration >= 5 && byterange && byterange.offset > 0, `${uri}: ${duration} s`);
    }
  },

  async 'hls.js plays the film with its subtitles and without an error'({ playlist }, browser) {
    const { page, said } = await blank(browser, require.resolve('hls.js/dist/hls.js'));
    await page.evaluate((url) => {
      const { Hls } = window as any;
      const video = document.querySelector('video')!;
      const note = (...words: unknown[]) => console.error(words.map(String).join(' '));
      const hls = new Hls({ debug: { log() {}, debug() {}, info() {}, trace() {}, warn: note, error: note } });
      hls.on(Hls.Events.ERROR, (_: unknown, data: any) => note('error', data.details));
      hls.on(Hls.Events.SUBTITLE_TRACKS_UPDATED, () => (hls.subtitleTrack = 0));
      hls.loadSource(url);
      hls.attachMedia(video);
      (window as any).tracks = () => hls.subtitleTracks.map((track: any) => track.lang);
    }, playlist);
    await toTheEnd(page);
    assert.deepEqual(await page.evaluate(() => (window as any).tracks()), ['en']);
    const cues = await page.evaluate(() =>
      [...document.querySelector('video')!.textTracks].flatMap((track) =>
        [...(track.cues ?? [])].map((cue) => [cue.startTime, cue.endTime, (cue as VTTCue).text]),
      ),
    );
    assert.deepEqual(cues, [
      [1, 2, 'first'],
      [3, 9, 'over a boundary'],
      [18, 20, 'a &lt; b'],
    ]);
    assert.deepEqual(said, []);
    await page.close();
  },

  async 'Shaka plays the film with its subtitles, and scrubs through its pictures'({ playlist }, browser) {
    const { page, said } = await blank(browser, require.resolve('shaka-player/dist/shaka-player.compiled.debug.js'));
    const found = await page.evaluate(async (url) => {
      const { shaka } = window as any;
      shaka.log.setLevel(shaka.log.Level.WARNING);
      const player = new shaka.Player();
      player.addEventListener('error', (event: any) => console.error(`error ${event.detail.code}`));
      await player.attach(document.querySelector('video'));
      await player.load(url);
      (window as any).player = player;
      const [text] = player.getTextTracks();
      player.selectTextTrack(text);
      return { language: text.language, variants: player.getVariantTracks().length };
    }, playlist);
    assert.equal(found.language, 'en');
    assert.ok(found.variants >= 1, `${found.variants} variants`);
    await toTheEnd(page);
    await page.evaluate(async () => {
      const video = document.querySelector('video')!;
      video.currentTime = 0;
      await video.play();
      (window as any).player.trickPlay(8);
    });
    await page.waitForFunction(() => document.querySelector('video')!.currentTime > 10, null, { timeout: PATIENCE_MS });
    const height = await page.evaluate(() => document.querySelector('video')!.videoHeight);
    assert.ok(height <= 240, `pictures of ${height} lines while scrubbing`);
    assert.deepEqual(said, []);
    await page.close();
  },
};

async function parsed(url: string): Promise<Parsed> {
  const { Parser } = require('m3u8-parser');
  const response = await fetch(url);
  assert.ok(response.ok, `GET ${url}: ${response.status}`);
  assert.equal(response.headers.get('content-type'), 'application/vnd.apple.mpegurl');
  const parser = new Parser();
  const said: string[] = [];
  // What it informs of are defaults that the RFC gives.
  for (const kind of ['warn', 'error']) {
    parser.on(kind, (event: { message: string }) => said.push(event.message));
  }
  parser.push(await response.text());
  parser.end();
  assert.deepEqual(said, [], url);
  return parser.manifest as Parsed;
}

/** The rates that the multivariant playlist names are those of the segments as they are served. */
async function measured(at: URL, media: Parsed, attributes: Record<string, unknown>): Promise<void> {
  const parts: [number, number][] = [];
  for (const segment of media.segments) {
    const body = await (await fetch(new URL(segment.uri, at))).arrayBuffer();
    parts.push([body.byteLength, segment.duration]);
  }
  // The peak is that of any run of half to one and a half target durations (RFC 8216, section 4.1).
  let highest = 0;
  for (const from of parts.keys()) {
    let [bytes, seconds] = [0, 0];
    for (const [size, duration] of parts.slice(from)) {
      [bytes, seconds] = [bytes + size, seconds + duration];
      const fits = seconds >= media.targetDuration! * 0.5 && seconds <= media.targetDuration! * 1.5;
      if (fits) highest = Math.max(highest, (bytes * 8) / seconds);
    }
  }
  const [bytes, seconds] = parts.reduce(([b, s], [size, duration]) => [b + size, s + duration], [0, 0]);
  const near = (told: unknown, is: number) => Math.abs(Number(told) / is - 1) < 0.01;
  assert.ok(near(attributes['BANDWIDTH'], highest), `${at.href}: ${attributes['BANDWIDTH']} for ${highest}`);
  const mean = (bytes * 8) / seconds;
  assert.ok(near(attributes['AVERAGE-BANDWIDTH'], mean), `${at.href}: ${attributes['AVERAGE-BANDWIDTH']} for ${mean}`);
}

/** A page of no site with a player in it, and what it complains of. */
async function blank(browser: Browser, script: string): Promise<{ page: Page; said: string[] }> {
  const page = await browser.newPage();
  const said: string[] = [];
  page.on('console', (message) => {
    if (['warning', 'error'].includes(message.type())) said.push(message.text());
  });
  page.on('pageerror', (error) => said.push(String(error)));
  await page.setContent('<video muted></video>');
  await page.addScriptTag({ path: script });
  return { page, said };
}

async function toTheEnd(page: Page): Promise<void> {
  await page.evaluate(async () => {
    const video = document.querySelector('video')!;
    await video.play();
    video.playbackRate = 4;
  });
  await page.waitForFunction(() => document.querySelector('video')!.ended, null, { timeout: PATIENCE_MS });
}

/** A film as creators send them. */
async function film(demo: Demo): Promise<Film> {
  const directory = await mkdtemp(join(tmpdir(), 'sluice-'));
  try {
    const subtitles = '1\n00:00:01,000 --> 00:00:02,000\nfirst\n\n2\n00:00:03,000 --> 00:00:09,000\nover a boundary\n\n'
      + '3\n00:00:18,000 --> 00:00:20,000\na < b\n';
    await writeFile(join(directory, 'en.srt'), subtitles);
    const chapters = ';FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1\nSTART=0\nEND=21\ntitle=All\n';
    await writeFile(join(directory, 'meta.txt'), chapters);
    const make = '-nostdin -loglevel error -f lavfi -i testsrc2=s=640x360:r=25:d=21 -f lavfi -i sine=d=21 -i en.srt '
      + '-i meta.txt -map 0 -map 1 -map 2 -map_metadata 3 -metadata:s:s:0 language=eng -metadata:s:s:0 title=English '
      + '-disposition:s:0 default -g 50 -preset ultrafast -c:s srt film.mkv';
    await run('ffmpeg', make.split(' '), { cwd: directory });
    const source = await readFile(join(directory, 'film.mkv'));
    const headers = { authorization: `Bearer ${demo.creator_key}`, 'content-type': 'application/json' };
    const draft = { method: 'POST', headers, body: JSON.stringify({ title: 'Playlists', msat_per_second: 0 }) };
    const { id } = (await (await fetch(`${demo.base_url}/api/v1/videos`, draft)).json()) as { id: string };
    const url = `${demo.base_url}/api/v1/videos/${id}`;
    const sent = await fetch(`${url}/source`, { method: 'PUT', headers, body: source });
    assert.equal(sent.status, 202);
    for (const begun = Date.now(); Date.now() - begun < PATIENCE_MS; ) {
      const shown = (await (await fetch(url, { headers })).json()) as Record<string, unknown>;
      if (shown['state'] === 'ready' && shown['poster']) {
        const base = `${demo.base_url}/hls/${id}`;
        return { base, playlist: `${base}/index.m3u8` };
      }
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    throw new Error('the film is never ready with its extras');
  } finally {
    await rm(directory, { recursive: true });
  }
}

async function main(): Promise<number> {
  const demo = await startDemo();
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
  let failed = 0;
  try {
    const subject = await film(demo);
    for (const [name, test] of Object.entries(tests)) {
      try {
        await test(subject, browser);
        console.log(`ok    ${name}`);
      } catch (error) {
        failed += 1;
        console.log(`FAIL  ${name}\n${(error as Error).stack ?? error}`);
      }
    }
  } finally {
    await browser.close();
    await demo.stop();
  }
  console.log(`${Object.keys(tests).length - failed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}

main().then(
  (code) => process.exit(code),
  (error: Error) => {
    console.log(`FAIL  playlists\n${error.stack ?? error.message}`);
    process.exit(1);
  },
);
