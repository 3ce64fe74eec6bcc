// Markdown as JupyterLab reads it: formulas are taken out (its latex.ts), marked makes a page, and they are put back.
// Reads a JSON string from each line and writes the page as one: node jupyterlab.mjs FOLDER_WITH_MARKED
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(`${process.argv[2]}/node_modules/`);
const { marked } = require("marked");
const MARKS = /(\$\$?|\\(?:begin|end)\{[a-z]*\*?\}|\\[{}$]|[{}]|(?:\n\s*)+|@@\d+@@|\\\\[()[\]])/i;

const shown = text => text.replace(/~([TD])/g, (_, sign) => (sign === "T" ? "~" : "$"));

function withoutFormulas(text) {
  const formulas = [];
  if (text.includes("`") || text.includes("~~~")) {
    const hidden = code => code.replace(/\$/g, "~D");
    text = text.replace(/~/g, "~T")
      .replace(/^(?<fence>`{3,}|(~T){3,})[^`\n]*\n([\s\S]*?)^\k<fence>`*$/gm, hidden)
      .replace(/(^|[^\\])(`+)([^\n]*?[^`\n])\2(?!`)/gm, hidden);
  }
  const pieces = text.replace(/\r\n?/g, "\n").split(MARKS);
  let start = null, last = null, closer = null, depth = 0;
  const take = end => {
    const formula = pieces.slice(start, end + 1).join("");
    for (let index = start; index <= end; index++) pieces[index] = "";
    pieces[start] = `@@${formulas.length}@@`;
    formulas.push(shown(formula.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;")));
    start = last = closer = null;
  };
  for (let index = 1; index < pieces.length; index += 2) {
    const piece = pieces[index];
    if (piece[0] === "@") {
      pieces[index] = `@@${formulas.length}@@`;
      formulas.push(piece);
    } else if (start !== null) {
      if (piece === closer) {
        if (depth) last = index;
        else take(index);
      } else if (/\n.*\n/.test(piece)) {
        if (last !== null) take(index = last);
        start = last = closer = null;
        depth = 0;
      } else if (piece === "{") depth++;
      else if (piece === "}" && depth) depth--;
    } else if (piece === "$" || piece === "$$") [start, closer, depth] = [index, piece, 0];
    else if (piece === "\\\\(" || piece === "\\\\[") [start, closer, depth] = [index, piece.endsWith("(") ? "\\\\)" : "\\\\]", 0];
    else if (piece.startsWith("\\begin")) [start, closer, depth] = [index, `\\end${piece.slice(6)}`, 0];
  }
  if (start !== null && last !== null) take(last);
  return [shown(pieces.join("")), formulas];
}

for await (const line of createInterface({ input: process.stdin })) {
  const [text, formulas] = withoutFormulas(JSON.parse(line));
  const page = marked.parse(text, { gfm: true }).replace(/@@(\d+)@@/g, (_, number) => formulas[number]);
  console.log(JSON.stringify(page));
}
