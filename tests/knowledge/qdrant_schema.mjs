// Makes qdrant_schema.json: the parts of Qdrant's OpenAPI document that the index uses, as JSON
// Schema. The document itself comes as generated TypeScript in @qdrant/js-client-rest
// (Apache-2.0), dist/types/openapi/generated_schema.d.ts:
//   node qdrant_schema.mjs generated_schema.d.ts VERSION > qdrant_schema.json
// Needs the package typescript. Unlike OpenAPI, objects are closed: a field that the document does
// not name is an error.
import { readFileSync } from "node:fs";
import ts from "typescript";

const OPERATIONS = [
  "root", "get_collections_aliases", "get_collections", "get_collection",
  "create_collection", "update_collection", "delete_collection", "create_field_index",
  "update_aliases", "upsert_points", "delete_points", "scroll_points", "count_points",
  "query_points",
];

const [file, version] = process.argv.slice(2);
const source = ts.createSourceFile(file, readFileSync(file, "utf8"), ts.ScriptTarget.Latest, true);
const top = Object.fromEntries(source.statements.filter(ts.isInterfaceDeclaration).map((s) => [s.name.text, s]));
const named = (node) => Object.fromEntries(node.members.filter(ts.isPropertySignature).map((m) => [m.name.text, m.type]));
const schemas = named(named(top.components).schemas);
const operations = named(top.operations);
const used = {};

function convert(node) {
  if (ts.isParenthesizedTypeNode(node)) return convert(node.type);
  if (ts.isArrayTypeNode(node)) return { type: "array", items: convert(node.elementType) };
  if (ts.isUnionTypeNode(node)) return union(node);
  if (ts.isLiteralTypeNode(node)) return literal(node.literal);
  if (ts.isTypeLiteralNode(node)) return object(node);
  if (ts.isIndexedAccessTypeNode(node)) return reference(node.indexType.literal.text);
  if (ts.isTypeReferenceNode(node) && node.typeName.text === "Record") return { type: "object" };
  if (ts.isTypeReferenceNode(node) && node.typeName.text === "OneOf") return { anyOf: node.typeArguments[0].elements.map(convert) };
  switch (node.kind) {
    case ts.SyntaxKind.StringKeyword: return { type: "string" };
    case ts.SyntaxKind.NumberKeyword: return { type: "number" };
    case ts.SyntaxKind.BooleanKeyword: return { type: "boolean" };
    case ts.SyntaxKind.UnknownKeyword: return {};
    case ts.SyntaxKind.NeverKeyword: return { not: {} };
    case ts.SyntaxKind.UndefinedKeyword: return { not: {} };
  }
  throw new Error(`what is ${node.getText()}?`);
}

function union(node) {
  const options = node.types.map(convert);
  // How "or null" of a reference comes out: the object in it is nothing of the document's.
  const bare = options.length === 2 && options[0].type === "object" && !options[0].properties && !("additionalProperties" in options[0]);
  if (bare && options[1].type === "null") return { type: "null" };
  return { anyOf: options };
}

function literal(node) {
  if (node.kind === ts.SyntaxKind.NullKeyword) return { type: "null" };
  return { const: node.kind === ts.SyntaxKind.TrueKeyword ? true : node.kind === ts.SyntaxKind.FalseKeyword ? false : node.text };
}

function object(node) {
  const made = { type: "object", properties: {}, required: [], additionalProperties: false };
  for (const member of node.members) {
    if (ts.isIndexSignatureDeclaration(member)) {
      made.additionalProperties = convert(member.type);
      continue;
    }
    made.properties[member.name.text] = convert(member.type);
    if (!member.questionToken) made.required.push(member.name.text);
  }
  return made;
}

function reference(name) {
  if (!(name in used)) {
    used[name] = {};
    used[name] = convert(schemas[name]);
  }
  return { $ref: `#/components/schemas/${name}` };
}

const paths = {};
for (const [path, verbs] of Object.entries(named(top.paths))) {
  for (const [verb, access] of Object.entries(named(verbs))) {
    const id = access.indexType.literal.text;
    if (!OPERATIONS.includes(id)) continue;
    const parts = named(operations[id]);
    const parameters = parts.parameters ? named(parts.parameters) : {};
    const json = (of) => convert(named(named(of).content)["application/json"]);
    paths[path] ??= {};
    paths[path][verb] = {
      query: parameters.query ? convert(parameters.query) : { type: "object", additionalProperties: false },
      body: parts.requestBody ? json(parts.requestBody) : null,
      answer: json(named(parts.responses)["200"]),
    };
  }
}
const from = `@qdrant/js-client-rest ${version} (Apache-2.0), generated from Qdrant's OpenAPI document`;
// One line per operation and per schema, so that a new version's differences can be read.
const lines = (of) => `{\n${Object.keys(of).sort().map((k) => `${JSON.stringify(k)}: ${JSON.stringify(of[k])}`).join(",\n")}\n}`;
console.log(`{"from": ${JSON.stringify(from)},\n"paths": ${lines(paths)},\n"components": {"schemas": ${lines(used)}}}`);
