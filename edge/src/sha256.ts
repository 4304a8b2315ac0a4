/**
 * SHA-256. `crypto.subtle` exists only in a secure context (https or localhost), so there is an implementation of our own
 * for a page on plain http. Source: FIPS 180-4, sections 4.1.2, 5.1.1 and 6.2.
 */

/** First 32 bits of the fractional parts of the cube roots of the first 64 primes. */
const ROUND = new Uint32Array(64);
/** The same of the square roots of the first 8 primes. */
const INITIAL = new Uint32Array(8);

for (let candidate = 2, found = 0; found < 64; candidate++) {
  let prime = true;
  for (let divisor = 2; divisor * divisor <= candidate; divisor++) {
    prime = prime && candidate % divisor !== 0;
  }
  if (prime) {
    if (found < 8) {
      INITIAL[found] = fraction(candidate ** (1 / 2));
    }
    ROUND[found] = fraction(candidate ** (1 / 3));
    found++;
  }
}

function fraction(root: number): number {
  return (root - Math.floor(root)) * 2 ** 32;
}

/** The hex digest, by `crypto.subtle` where it is available. */
export async function sha256(data: Uint8Array): Promise<string> {
  const subtle = globalThis.crypto?.subtle;
  if (subtle === undefined) {
    return sha256InScript(data);
  }
  return hex(new Uint8Array(await subtle.digest("SHA-256", data as Uint8Array<ArrayBuffer>)));
}

/** The hex digest, without `crypto.subtle`. */
export function sha256InScript(data: Uint8Array): string {
  const blocks = Math.ceil((data.length + 9) / 64);
  const whole = Math.floor(data.length / 64);
  const state = INITIAL.slice();
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  for (let block = 0; block < whole; block++) {
    compress(state, view, block * 64);
  }
  const tail = new Uint8Array((blocks - whole) * 64);
  tail.set(data.subarray(whole * 64));
  tail[data.length - whole * 64] = 0x80;
  const end = new DataView(tail.buffer);
  end.setUint32(tail.length - 8, Math.floor(data.length / 2 ** 29));
  end.setUint32(tail.length - 4, (data.length * 8) >>> 0);
  for (let block = 0; block < tail.length / 64; block++) {
    compress(state, end, block * 64);
  }
  const out = new DataView(new ArrayBuffer(32));
  state.forEach((word, i) => {
    out.setUint32(i * 4, word);
  });
  return hex(new Uint8Array(out.buffer));
}

const schedule = new Uint32Array(64);

/** Adds one block of 64 bytes at `offset` to the state. */
function compress(state: Uint32Array, view: DataView, offset: number): void {
  const at = (words: Uint32Array, i: number): number => words[i] as number;
  for (let i = 0; i < 16; i++) {
    schedule[i] = view.getUint32(offset + i * 4);
  }
  for (let i = 16; i < 64; i++) {
    const [w15, w2] = [at(schedule, i - 15), at(schedule, i - 2)];
    const s0 = turned(w15, 7) ^ turned(w15, 18) ^ (w15 >>> 3);
    const s1 = turned(w2, 17) ^ turned(w2, 19) ^ (w2 >>> 10);
    schedule[i] = (at(schedule, i - 16) + s0 + at(schedule, i - 7) + s1) | 0;
  }
  let [a, b, c, d, e, f, g, h] = state as unknown as [number, number, number, number, number, number, number, number];
  for (let i = 0; i < 64; i++) {
    const s1 = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25);
    const choice = (e & f) ^ (~e & g);
    const first = (h + s1 + choice + at(ROUND, i) + at(schedule, i)) | 0;
    const s0 = turned(a, 2) ^ turned(a, 13) ^ turned(a, 22);
    const majority = (a & b) ^ (a & c) ^ (b & c);
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + s0 + majority) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((word, i) => {
    state[i] = at(state, i) + word;
  });
}

function turned(word: number, bits: number): number {
  return (word >>> bits) | (word << (32 - bits));
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
