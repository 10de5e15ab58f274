// Validates Kubernetes manifests (a JSON list on stdin) against the models of npm's
// kubernetes-models and @kubernetes-models/prometheus-operator, which know enums and quantities.
// Writes a JSON list: for each manifest null, or what is wrong with it.
import { readFileSync } from "node:fs";

const GROUPS = {
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator/monitoring.coreos.com",
};

async function modelOf({ apiVersion, kind }) {
  const [version, group = ""] = apiVersion.split("/").reverse();
  const path = GROUPS[group] ?? ["kubernetes-models", group].filter(Boolean).join("/");
  return (await import(`${path}/${version}`))[kind];
}

const answers = [];
for (const manifest of JSON.parse(readFileSync(0, "utf8"))) {
  const Model = await modelOf(manifest);
  if (!Model) throw new Error(`no model of ${manifest.apiVersion} ${manifest.kind}`);
  try {
    new Model(manifest).validate();
    answers.push(null);
  } catch (error) {
    answers.push(error.message);
  }
}
process.stdout.write(JSON.stringify(answers));
