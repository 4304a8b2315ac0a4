/** Loads an export and scores payments with it. */

import { type Declaration, readDeclaration } from "./declaration.ts";
import { FORMAT, parseJson, readFolder, unpacked, WASM } from "./folder.ts";
import { testModel, testPayments } from "./golden.ts";
import { type Computed, named, Plan } from "./plan.ts";
import {
  type Answer,
  ContractError,
  type Daily,
  type DeclaredColumn,
  type Features,
  type History,
  type Load,
  RefusedError,
  type Row,
  type Scorer,
  type Transaction,
} from "./public.ts";
import { Groups } from "./reasons.ts";
import { Model } from "./runtime.ts";

/** Identity of a version, as `version.json` and `serving.json` state it. */
interface Version {
  modelVersion: string;
  modelSha256: string;
  manifestSha256: string;
  featureHash: string;
  threshold: number;
  level: string;
}

/** Scores payments with a verified version. */
class VerifiedScorer implements Scorer {
  readonly modelVersion: string;
  readonly modelSha256: string;
  readonly manifestSha256: string;
  readonly featureHash: string;
  readonly threshold: number;
  readonly level: string;
  readonly columns: Readonly<Record<string, DeclaredColumn>>;
  readonly entities: Readonly<Record<string, string>>;
  readonly dailyFeatures: Readonly<Record<string, readonly string[]>>;
  readonly groups: Readonly<Record<string, readonly string[]>>;

  constructor(
    version: Version,
    declaration: Declaration,
    private readonly plan: Plan,
    private readonly reasonGroups: Groups,
    private readonly model: Model,
  ) {
    this.modelVersion = version.modelVersion;
    this.modelSha256 = version.modelSha256;
    this.manifestSha256 = version.manifestSha256;
    this.featureHash = version.featureHash;
    this.threshold = version.threshold;
    this.level = version.level;
    this.columns = Object.fromEntries(declaration.columns);
    this.entities = Object.fromEntries([...declaration.entities].map(([name, entity]) => [name, entity.id]));
    this.dailyFeatures = Object.fromEntries(plan.tables.map((t) => [t.entity, t.features.map((f) => f.name)]));
    this.groups = reasonGroups.inputs;
  }

  async score(
    transaction: Transaction,
    history?: readonly Transaction[] | History | null,
    daily?: Daily | null,
    options: { explain?: boolean } = {},
  ): Promise<Answer> {
    const computed = this.plan.compute({ transaction, history, daily });
    const vector = new Float32Array(this.plan.vector.names.length);
    this.plan.vector.write(vector, 0, computed.base);
    const [probability] = await this.model.score(vector);
    const answer = this.answer(computed, probability ?? Number.NaN);
    if (options.explain === true) {
      const probabilities = await this.model.score(this.reasonGroups.vectors(computed.base));
      answer.reasons = this.reasonGroups.reasons(computed.base, probabilities);
    }
    return answer;
  }

  async scoreMany(rows: readonly Row[]): Promise<Answer[]> {
    if (rows.length === 0) {
      return [];
    }
    const width = this.plan.vector.names.length;
    const vectors = new Float32Array(rows.length * width);
    const computed = rows.map((row, i) => {
      try {
        const found = this.plan.compute(row);
        this.plan.vector.write(vectors, i * width, found.base);
        return found;
      } catch (error) {
        throw named(error, `rows[${i}]`);
      }
    });
    const probabilities = await this.model.score(vectors);
    return computed.map((found, i) => this.answer(found, probabilities[i] ?? Number.NaN));
  }

  features(row: Row): Features {
    const { base } = this.plan.compute(row);
    const vector = new Float32Array(this.plan.vector.names.length);
    this.plan.vector.write(vector, 0, base);
    const values = Object.fromEntries(this.plan.vector.inputs.map(({ name }, i) => [name, base[i] ?? null]));
    return { values, vector };
  }

  history(transactions: readonly Transaction[] = []): History {
    return this.plan.history(transactions);
  }

  private answer(computed: Computed, probability: number): Answer {
    return {
      transaction_id: computed.payment.transactionId,
      is_fraud: probability >= this.threshold,
      fraud_probability: probability,
      threshold: this.threshold,
      model_version: this.modelVersion,
      categories: this.plan.categoriesOf(computed.payment),
      history: computed.source,
      degraded: computed.degraded,
      repeated: computed.repeated,
    };
  }
}

/** See `Load`. */
export const load: Load = async (options = {}) => {
  const { files, hashes, manifestSha256 } = await readFolder(options);
  const version = parseJson("version.json", files["version.json"]);
  const serving = parseJson("serving.json", files["serving.json"]);
  if (version["format"] !== FORMAT) {
    throw new RefusedError(
      "format",
      `version.json: expected format ${FORMAT}, got ${JSON.stringify(version["format"])}`,
    );
  }
  agree("model.onnx", [version["model_sha256"], serving["model_sha256"]], hashes["model.onnx"]);
  agree("serving.json", [version["serving_sha256"]], hashes["serving.json"]);
  const { threshold, level, feature_hash: featureHash, declaration: declared, golden, reference } = serving;
  if (typeof threshold !== "number" || typeof level !== "string" || typeof golden !== "object" || golden === null) {
    throw new RefusedError("format", "serving.json: expected threshold, level and golden rows");
  }
  const declaration = readDeclaration(declared);
  const dailyDefault = (version["daily_default"] ?? {}) as Daily;
  const plan = new Plan(declaration, dailyDefault, options.now ?? Date.now);
  const groups = new Groups(plan, reference);
  const width = plan.vector.names.length;
  const model = await Model.of(files["model.onnx"], await unpacked(files[WASM]), width);
  await testModel(golden as Record<string, unknown>, model, width);
  await refusedIfInvalid(() =>
    testPayments(parseJson("golden.json", files["golden.json"]), declaration, dailyDefault, model, threshold),
  );
  const identity = {
    modelVersion: String(version["model_version"]),
    modelSha256: hashes["model.onnx"],
    manifestSha256,
    featureHash: String(featureHash),
    threshold,
    level,
  };
  return new VerifiedScorer(identity, declaration, plan, groups, model);
};

function agree(name: string, stated: readonly unknown[], got: string): void {
  for (const hash of stated) {
    if (hash !== got) {
      throw new RefusedError("sha256", `${name}: version.json or serving.json states sha256 ${hash}, got ${got}`);
    }
  }
}

/** A golden payment that violates the contract is a fault of the export. */
async function refusedIfInvalid(test: () => Promise<void>): Promise<void> {
  try {
    await test();
  } catch (error) {
    throw error instanceof ContractError ? new RefusedError("golden", `golden.json: ${error.message}`) : error;
  }
}
