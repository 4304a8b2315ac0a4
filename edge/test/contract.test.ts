import assert from "node:assert/strict";
import { test } from "node:test";
import { dayOfWeek, hourOfDay, idText, lengthOf, parseTime, roundHalfEven } from "../src/contract.ts";

test("a half is rounded to the even integer, and nothing becomes -0", () => {
  const cases: [number, number][] = [
    [0.5, 0],
    [1.5, 2],
    [2.5, 2],
    [-0.5, 0],
    [-1.5, -2],
    [-2.5, -2],
    [0.49999999999999994, 0],
    [-0.49999999999999994, 0],
    [0.5000000000000001, 1],
    [4503599627370495.5, 4503599627370496],
    [4503599627370494.5, 4503599627370494],
    [-0, 0],
  ];
  for (const [given, expected] of cases) {
    assert.ok(Object.is(roundHalfEven(given), expected), `${given}: got ${roundHalfEven(given)}`);
  }
});

test("a time with a zone is microseconds; digits after the sixth are rounded half up", () => {
  const first = 1_741_600_800_000_000; // 2025-03-10T10:00:00Z
  const cases: [string, number | null][] = [
    ["2025-03-10T10:00:00Z", first],
    ["2025-03-10t10:00:00z", first],
    ["2025-03-10 12:00:00+02:00", first],
    ["2025-03-10T04:30:00-0530", first],
    ["2025-03-10T10:00:00.5Z", first + 500_000],
    ["2025-03-10T10:00:00.1234565Z", first + 123_457],
    ["2025-03-10T10:00:00.1234564999Z", first + 123_456],
    ["2025-03-10T10:00:00.9999999Z", first + 1_000_000],
    ["2024-02-29T00:00:00Z", 1_709_164_800_000_000],
    ["2025-02-29T00:00:00Z", null],
    ["2025-03-10T24:00:00Z", null],
    ["2025-03-10T10:00:60Z", null],
    ["2025-03-10T10:00:00", null],
    ["2025-03-10T10:00:00.Z", null],
    ["2025-03-10T10:00:00+24:00", null],
    ["2025-13-10T10:00:00Z", null],
    ["2025-03-10", null],
  ];
  for (const [given, expected] of cases) {
    assert.equal(parseTime(given), expected, given);
  }
});

test("hour and weekday are those of UTC", () => {
  assert.equal(hourOfDay(1_741_600_800_000_000), 10);
  assert.equal(dayOfWeek(1_741_600_800_000_000), 0); // a Monday
  assert.equal(dayOfWeek(1_741_600_800_000_000 - 86_400_000_000), 6);
});

test("an id loses surrounding spaces and is null for a word that stands for a missing one", () => {
  assert.equal(idText(" u-1\u00a0"), "u-1");
  assert.equal(idText("00742"), "00742");
  assert.equal(idText("NULL"), null);
  assert.equal(idText("nano"), "nano");
  assert.throws(() => idText("u\n1"), /control character/);
  assert.throws(() => idText("4.11111E+15"), /scientific notation/);
  assert.throws(() => idText("#REF!"), /error value/);
});

test("the length of a text is counted in characters", () => {
  assert.equal(lengthOf("\u{1f600}".repeat(128)), 128);
  assert.equal(lengthOf("a".repeat(129)), 129);
});
