/**
 * The transaction contract: units, bounds, identifiers and times, as `fraud.core.contract` defines them.
 *
 * Times are microseconds since 1970-01-01 UTC: integers below 2^53 until the year 2255, so a double holds them exactly.
 */

export const US_PER_SECOND = 1_000_000;
export const US_PER_HOUR = 3_600 * US_PER_SECOND;
export const US_PER_DAY = 24 * US_PER_HOUR;
export const UNITS_PER_USD = 10_000;
export const MAX_AMOUNT = 1e9;
export const MAX_ID_LENGTH = 128;
/** An event time may be this far ahead of the clock. */
export const MAX_FUTURE_SKEW_US = US_PER_DAY;
/** 2000-01-01. */
export const MIN_EVENT_US = 946_684_800 * US_PER_SECOND;

/** Most ids: letters and digits, or a letter and then letters, digits, - and _. No fault below applies to them. */
const PLAIN = /^(?:[A-Za-z0-9]+|[A-Za-z][A-Za-z0-9_-]*)$/;
const LONGEST_PLAIN_MISSING = 4;
const MISSING_IDS = new Set(["nan", "null", "none", "<na>", "(null)", "\\n", "#n/a"]);
const SPACES = "\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000";
const SURROUNDING = new RegExp(`^[${SPACES}]+|[${SPACES}]+$`, "g");
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters that an id cannot have
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;
const ROUNDED = /^(?:[+-]?[0-9](?:[.,][0-9]+)?[eE][+-][0-9]+|[+-]?[0-9][.,][0-9]+[eE][0-9]+)$/;
const ERROR_CELL = /^(?:#{3,}|#(?:NAME\?|VALUE!|REF!|DIV\/0!|NUM!|NULL!))$/;
const TIME = /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):?(\d\d))$/;

/** The nearest integer, a half to the even one, as Python's `round`. Exact; never -0. */
export function roundHalfEven(x: number): number {
  const size = Math.abs(x);
  const down = Math.floor(size);
  // Exact: `down` is 0 or at least half of `size`.
  const rest = size - down;
  const rounded = rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down;
  return x < 0 && rounded > 0 ? -rounded : rounded;
}

/** 10^decimals. */
export function scaleOf(decimals: number): number {
  return [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000][decimals] ?? Number.NaN;
}

/** Characters of a text (code points), as Python counts them. */
export function lengthOf(text: string): number {
  if (text.length <= MAX_ID_LENGTH) {
    return text.length;
  }
  return [...text].length;
}

/**
 * The id in a text, without surrounding spaces; null for a word that stands for a missing id.
 * Throws an Error with the fault.
 */
export function idText(text: string): string | null {
  if (text.length > LONGEST_PLAIN_MISSING && PLAIN.test(text)) {
    return text;
  }
  const found = text.replace(SURROUNDING, "");
  if (CONTROL.test(found)) {
    throw new Error("has a control character or a line break");
  }
  if (ROUNDED.test(found)) {
    throw new Error("is a long number in scientific notation, as a spreadsheet writes it (its last digits are lost)");
  }
  if (ERROR_CELL.test(found)) {
    throw new Error("is an error value of a spreadsheet");
  }
  return MISSING_IDS.has(found.toLowerCase()) ? null : found;
}

/** Event time (us) of an RFC 3339 text with a zone; null for another text. Digits after the sixth are rounded half up. */
export function parseTime(text: string): number | null {
  const found = TIME.exec(text);
  if (found === null) {
    return null;
  }
  const [, year, month, day, hour, minute, second, fraction = "", sign, zoneHour = "0", zoneMinute = "0"] = found;
  const date = new Date(0);
  date.setUTCFullYear(Number(year), Number(month) - 1, Number(day));
  const valid =
    Number(year) > 0 &&
    date.getUTCMonth() === Number(month) - 1 &&
    date.getUTCDate() === Number(day) &&
    Number(hour) < 24 &&
    Number(minute) < 60 &&
    Number(second) < 60 &&
    Number(zoneHour) < 24 &&
    Number(zoneMinute) < 60;
  if (!valid) {
    return null;
  }
  const digits = fraction.padEnd(7, "0");
  const micros = Number(digits.slice(0, 6)) + (digits.charCodeAt(6) >= 53 ? 1 : 0);
  const zone = (Number(zoneHour) * 60 + Number(zoneMinute)) * (sign === "-" ? -1 : 1);
  const seconds = Number(hour) * 3_600 + (Number(minute) - zone) * 60 + Number(second);
  return date.getTime() * 1_000 + seconds * US_PER_SECOND + micros;
}

/** 0..23, UTC. */
export function hourOfDay(eventUs: number): number {
  return Math.floor(eventUs / US_PER_HOUR) % 24;
}

/** Monday = 0, UTC. 1970-01-01 was a Thursday. */
export function dayOfWeek(eventUs: number): number {
  return (Math.floor(eventUs / US_PER_DAY) + 3) % 7;
}
