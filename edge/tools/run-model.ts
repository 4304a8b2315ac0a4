/**
 * Scores vectors with ONNX Runtime Web in Node: `node run-model.mjs MODEL.onnx VECTORS.f32 COLUMNS OUT.f32`.
 *
 * VECTORS.f32 is float32 [rows, COLUMNS], little endian, row by row. OUT.f32 gets float32 [rows]. ROWS_AT_ONCE in the
 * environment limits the rows of one call. For the gate onnx_parity.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { unpacked, WASM } from "../src/folder.ts";
import { Model } from "../src/runtime.ts";

/** Throws an Error for arguments, files or a model that cannot be used. */
async function main([modelPath, vectorsPath, columns, outPath]: string[]): Promise<void> {
  if (modelPath === undefined || vectorsPath === undefined || outPath === undefined) {
    throw new Error("usage: run-model.mjs MODEL.onnx VECTORS.f32 COLUMNS OUT.f32");
  }
  const width = Number(columns);
  const data = readFileSync(vectorsPath);
  if (!Number.isInteger(width) || width < 1 || data.length % (4 * width) !== 0) {
    throw new Error(`expected float32 rows of ${columns} columns, got ${data.length} bytes`);
  }
  const vectors = new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.length));
  const rows = vectors.length / width;
  const atOnce = Number(process.env["ROWS_AT_ONCE"] ?? rows);
  const wasm = readFileSync(join(dirname(fileURLToPath(import.meta.url)), "..", "web", WASM));
  const model = await Model.of(readFileSync(modelPath), await unpacked(wasm), width);
  const out = new Float32Array(rows);
  for (let row = 0; row < rows; row += atOnce) {
    out.set(await model.score(vectors.subarray(row * width, Math.min(rows, row + atOnce) * width)), row);
  }
  writeFileSync(outPath, new Uint8Array(out.buffer));
}

// Without the stack, which would quote a line of this bundle.
main(process.argv.slice(2)).catch((error: unknown) => {
  console.error((error as Error).message);
  process.exit(1);
});
