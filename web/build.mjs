// Bundles the two pages into led_agent/pages: one HTML file each, script and style inline, nothing fetched.
// The same sources give the same bytes. `--verify` writes nothing and fails where the committed files differ.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "..", "led_agent", "pages");
const PAGES = [
  { entry: "viewer.tsx", file: "viewer.html", title: "led-agent viewer", data: "<!--LED_DATA-->\n" },
  { entry: "page.tsx", file: "page.html", title: "led-agent", data: "" },
];
const ICON =
  "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cg fill='none' stroke='%231f5fbf' " +
  "stroke-width='1.6'%3E%3Cpath d='M4 8C8 8 7 3 12 3M4 8h8M4 8c4 0 3 5 8 5'/%3E%3C/g%3E%3Ccircle cx='3' cy='8' r='2' " +
  "fill='%231f5fbf'/%3E%3C/svg%3E";

const sha = (text) => `'sha256-${createHash("sha256").update(text, "utf8").digest("base64")}'`;

async function bundled(entry) {
  const made = await build({
    absWorkingDir: here,
    entryPoints: [join("src", entry)],
    bundle: true,
    write: false,
    outdir: "out",
    format: "iife",
    target: "es2022",
    minify: true,
    charset: "ascii", // so that no encoding between here and the browser can change what the hash is of
    legalComments: "none",
    jsx: "automatic",
    jsxImportSource: "preact",
    metafile: true,
    logLevel: "warning",
  });
  const of = (end) => made.outputFiles.find((file) => file.path.endsWith(end))?.text.trim() ?? "";
  return { script: of(".js"), style: of(".css"), inputs: Object.keys(made.metafile.inputs) };
}

// The licences of what is bundled ask to be kept with it; equal texts are kept once.
function licences(inputs) {
  const names = [...new Set(inputs.map((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1]))];
  const texts = new Map();
  for (const name of names.filter(Boolean).sort()) {
    const folder = join(here, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
    if (!file) throw new Error(`${name} is bundled, and has no licence file to keep`);
    const text = readFileSync(join(folder, file), "utf8").replace(/\r/g, "").replaceAll("--", "- -").trim();
    texts.set(text, [...(texts.get(text) ?? []), `${name} ${version} (${license})`]);
  }
  return [...texts].map(([text, of]) => `${of.join(", ")}\n\n${text}`).join("\n\n");
}

function page({ title, data }, { script, style, inputs }) {
  if (/<\/script|<!--/i.test(script) || /<\/style/i.test(style)) throw new Error("the bundle would end its own element");
  const policy = [
    "default-src 'none'",
    `script-src ${sha(script)}`,
    `style-src ${sha(style)}`,
    "connect-src 'self'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
  ].join("; ");
  return [
    "<!doctype html>",
    `<!-- Made by web/build.mjs: change web/src, not this file. Bundled with it:\n\n${licences(inputs)}\n-->`,
    '<html lang="en">',
    "<head>",
    '<meta charset="utf-8">',
    `<meta http-equiv="Content-Security-Policy" content="${policy}">`,
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    '<meta name="referrer" content="no-referrer">',
    '<meta name="color-scheme" content="light dark">',
    `<title>${title}</title>`,
    `<link rel="icon" href="${ICON}">`,
    `<style>${style}</style>`,
    "</head>",
    "<body>",
    '<div id="app"><noscript>This page needs JavaScript; it runs what is in this file, and nothing else.</noscript></div>',
    `${data}<script>${script}</script>`,
    "</body>",
    "</html>",
    "",
  ].join("\n");
}

let differing = 0;
for (const each of PAGES) {
  const html = page(each, await bundled(each.entry));
  const path = join(target, each.file);
  if (process.argv.includes("--verify")) {
    let kept = "";
    try {
      kept = readFileSync(path, "utf8");
    } catch {
      // said below: it differs
    }
    if (kept !== html) {
      differing += 1;
      console.error(`${each.file} is not what web/src gives; run: cd web && npm ci && npm run build`);
    }
  } else {
    writeFileSync(path, html);
    console.log(`${each.file}: ${(html.length / 1024).toFixed(0)} KiB`);
  }
}
process.exit(differing ? 1 : 0);
