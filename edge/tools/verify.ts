/**
 * Loads an exported folder in Node as a browser does (sha256, golden rows): `node verify.mjs FOLDER`.
 *
 * Prints {"model_version", "model_sha256", "manifest_sha256"} as JSON. Exit code 1 and a message if it is refused.
 */

import { pathToFileURL } from "node:url";
import { load } from "../src/scorer.ts";

const [folder] = process.argv.slice(2);
if (folder === undefined) {
  console.error("usage: verify.mjs FOLDER");
  process.exit(2);
}
try {
  const scorer = await load({ base: pathToFileURL(folder) });
  console.log(
    JSON.stringify({
      model_version: scorer.modelVersion,
      model_sha256: scorer.modelSha256,
      manifest_sha256: scorer.manifestSha256,
    }),
  );
} catch (error) {
  console.error((error as Error).message);
  process.exit(1);
}
