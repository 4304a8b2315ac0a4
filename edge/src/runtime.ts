/** ONNX Runtime Web: the plain wasm build, one thread, from verified bytes. It reads nothing from the network. */

import { env, InferenceSession, Tensor } from "onnxruntime-web/wasm";
import { RefusedError } from "./public.ts";

const INPUT = "features";
const OUTPUT = "fraud_probability";

/** A loaded model. */
export class Model {
  private constructor(
    private readonly session: InferenceSession,
    private readonly width: number,
  ) {}

  /**
   * Loads a model of `width` columns. `wasm` is used by the first call only: a page has one runtime.
   * Throws RefusedError.
   */
  static async of(model: Uint8Array, wasm: ArrayBuffer, width: number): Promise<Model> {
    env.wasm.numThreads = 1;
    env.wasm.proxy = false;
    env.wasm.wasmBinary = wasm;
    env.logLevel = "error";
    try {
      const session = await InferenceSession.create(model, { executionProviders: ["wasm"] });
      if (!session.inputNames.includes(INPUT) || !session.outputNames.includes(OUTPUT)) {
        throw new Error(
          `expected input ${INPUT} and output ${OUTPUT}, got ${session.inputNames} and ${session.outputNames}`,
        );
      }
      return new Model(session, width);
    } catch (error) {
      // Some errors of the runtime are a bare number.
      const reason = error instanceof Error ? error.message : `error ${error}`;
      throw new RefusedError("runtime", `ONNX Runtime Web cannot load model.onnx: ${reason}`);
    }
  }

  /** Fraud probabilities, [rows]. `vectors`: [rows, width], row by row. */
  async score(vectors: Float32Array): Promise<Float32Array> {
    const tensor = new Tensor("float32", vectors, [vectors.length / this.width, this.width]);
    const output = (await this.session.run({ [INPUT]: tensor }, [OUTPUT]))[OUTPUT];
    return output?.data as Float32Array;
  }
}
