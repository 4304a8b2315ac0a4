/** The files of an exported folder: each is compared with the sha256 of the manifest before anything reads it. */

import { type LoadOptions, RefusedError } from "./public.ts";
import { sha256 } from "./sha256.ts";

export const FORMAT = 1;
export const WASM = "ort-wasm-simd-threaded.wasm.packed";
/** The files that the scorer reads. */
const NAMES = ["version.json", "serving.json", "golden.json", "model.onnx", WASM] as const;
type Name = (typeof NAMES)[number];

/** Verified bytes. */
export interface Folder {
  manifestSha256: string;
  files: Readonly<Record<Name, Uint8Array>>;
  /** sha256 by file. */
  hashes: Readonly<Record<Name, string>>;
}

/** Reads and verifies the files. Throws RefusedError. */
export async function readFolder(options: LoadOptions): Promise<Folder> {
  const read = options.read ?? reader(new URL(options.base ?? ".", options.base ? documentBase() : import.meta.url));
  // All are requested at once; nothing is used before it was compared with the manifest.
  const [manifest, ...contents] = await Promise.all(["manifest.json", ...NAMES].map((name) => readFile(read, name)));
  if (manifest === undefined) {
    throw new RefusedError("missing", "manifest.json: cannot be read");
  }
  const manifestSha256 = await sha256(manifest);
  if (options.manifestSha256 !== undefined && options.manifestSha256.toLowerCase() !== manifestSha256) {
    throw mismatch("manifest.json", options.manifestSha256, manifestSha256, manifest.length);
  }
  const expected = listed(parseJson("manifest.json", manifest));
  const entries = await Promise.all(
    NAMES.map(async (name, i): Promise<[Name, Uint8Array, string]> => {
      const data = contents[i] ?? new Uint8Array();
      const got = await sha256(data);
      if (got !== expected[name]) {
        throw mismatch(name, expected[name] ?? "(not in manifest.json)", got, data.length);
      }
      return [name, data, got];
    }),
  );
  return {
    manifestSha256,
    files: Object.fromEntries(entries.map(([name, data]) => [name, data])) as Record<Name, Uint8Array>,
    hashes: Object.fromEntries(entries.map(([name, , hash]) => [name, hash])) as Record<Name, string>,
  };
}

/** The content of a JSON file. Throws RefusedError. */
export function parseJson(name: string, data: Uint8Array): Readonly<Record<string, unknown>> {
  let found: unknown = null;
  try {
    found = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data));
  } catch (error) {
    throw new RefusedError("format", `${name}: expected JSON: ${(error as Error).message}`);
  }
  if (typeof found !== "object" || found === null || Array.isArray(found)) {
    throw new RefusedError("format", `${name}: expected an object`);
  }
  return found as Record<string, unknown>;
}

/** The content of the packed file, gzip. Throws RefusedError. */
export async function unpacked(data: Uint8Array): Promise<ArrayBuffer> {
  if (typeof DecompressionStream === "undefined") {
    throw new RefusedError(
      "runtime",
      "this browser has no DecompressionStream: expected Chrome 80, Firefox 113, Safari 16.4 or later",
    );
  }
  const stream = new Blob([data as Uint8Array<ArrayBuffer>]).stream().pipeThrough(new DecompressionStream("gzip"));
  try {
    return await new Response(stream).arrayBuffer();
  } catch (error) {
    throw new RefusedError("format", `${WASM}: expected gzip: ${(error as Error).message}`);
  }
}

function listed(manifest: Readonly<Record<string, unknown>>): Readonly<Record<string, string>> {
  const files = manifest["files"];
  if (manifest["format"] !== FORMAT || typeof files !== "object" || files === null) {
    throw new RefusedError(
      "format",
      `manifest.json: expected format ${FORMAT} and the files, got format ${JSON.stringify(manifest["format"])}`,
    );
  }
  const entries = Object.entries(files as Record<string, { sha256?: unknown }>);
  return Object.fromEntries(entries.map(([name, { sha256: hash }]) => [name, String(hash)]));
}

async function readFile(read: (name: string) => Promise<Uint8Array>, name: string): Promise<Uint8Array> {
  try {
    return await read(name);
  } catch (error) {
    const hint = "the folder is served by a file server, all files of the export side by side";
    throw new RefusedError("missing", `${name}: cannot be read: ${(error as Error).message}; expected that ${hint}`);
  }
}

function reader(base: URL): (name: string) => Promise<Uint8Array> {
  const folder = base.href.endsWith("/") ? base : new URL(`${base.href}/`);
  if (folder.protocol === "file:" && typeof process !== "undefined") {
    return async (name) => {
      const { readFile: fromDisk } = await import("node:fs/promises");
      return fromDisk(new URL(name, folder));
    };
  }
  return async (name) => {
    const response = await fetch(new URL(name, folder));
    if (!response.ok) {
      throw new Error(`status ${response.status}`);
    }
    return new Uint8Array(await response.arrayBuffer());
  };
}

function documentBase(): string {
  return typeof document === "undefined" ? import.meta.url : document.baseURI;
}

function mismatch(name: string, expected: string, got: string, bytes: number): RefusedError {
  return new RefusedError(
    "sha256",
    `${name}: expected sha256 ${expected}, got ${got} of ${bytes} bytes; the file was changed after the export: export again`,
  );
}
