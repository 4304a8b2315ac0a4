/** The module `fraud-scorer.js` of an export. */

export { ContractError, RefusedError } from "./public.ts";
export { load } from "./scorer.ts";
