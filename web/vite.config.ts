import { defineConfig } from 'vite';

// The server answers every GET /watch/{video} with index.html, so assets are named from the root. Nothing is
// inlined: the pages' Content-Security-Policy allows neither inline code nor data: style sheets and fonts.
export default defineConfig({
  base: '/',
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
});
