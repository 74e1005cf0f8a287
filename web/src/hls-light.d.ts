// hls.js ships no types for its light build (no subtitles, no alternate audio, no DRM), whose interface is the same.
declare module 'hls.js/light' {
  export * from 'hls.js';
  export { default } from 'hls.js';
}
