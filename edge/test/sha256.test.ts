import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { sha256, sha256InScript } from "../src/sha256.ts";

test("the digest without crypto.subtle is the one that OpenSSL computes, at every length around a block", async () => {
  for (let length = 0; length < 200; length++) {
    const data = Uint8Array.from({ length }, (_, i) => (i * 37 + length) % 256);
    const expected = createHash("sha256").update(data).digest("hex");
    assert.equal(sha256InScript(data), expected);
    assert.equal(await sha256(data), expected);
  }
});

test("a part of a larger buffer is read from its own beginning", () => {
  const whole = Uint8Array.from({ length: 300 }, (_, i) => i % 256);
  const part = whole.subarray(13, 200);
  assert.equal(sha256InScript(part), createHash("sha256").update(part).digest("hex"));
});
