// Amounts and times in words. Pure.

/** `1234567n` msat as `1,234.567`: whole satoshis with as many decimals as are needed. */
export function sats(msat: bigint): string {
  const whole = (msat / 1000n).toLocaleString('en');
  const rest = msat % 1000n;
  return rest === 0n ? whole : `${whole}.${rest.toString().padStart(3, '0').replace(/0+$/, '')}`;
}

/** Whole satoshis, rounded down: for a balance, whose fractions nobody can spend. */
export function wholeSats(msat: bigint): string {
  return (msat / 1000n).toLocaleString('en');
}

/** `75.2` seconds as `1:15`. */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const minutes = Math.floor(whole / 60) % 60;
  const hours = Math.floor(whole / 3600);
  const tail = String(whole % 60).padStart(2, '0');
  return hours > 0 ? `${hours}:${String(minutes).padStart(2, '0')}:${tail}` : `${minutes}:${tail}`;
}

/** `[4, 5, 6, 9]` as `4–6, 9`. */
export function ranges(numbers: readonly number[]): string {
  const sorted = [...numbers].sort((a, b) => a - b);
  const parts: string[] = [];
  for (let from = 0; from < sorted.length; ) {
    let to = from;
    while (sorted[to + 1] === sorted[to]! + 1) to += 1;
    parts.push(from === to ? `${sorted[from]}` : `${sorted[from]}–${sorted[to]}`);
    from = to + 1;
  }
  return parts.join(', ');
}
