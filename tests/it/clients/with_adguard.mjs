// What AdGuard's DNS filtering engine makes of lists: `node with_adguard.mjs MODULES CASES VERDICTS`.
//
// CASES is a file with an array of {lists, hosts}: the texts of lists, and names to ask about. The file
// VERDICTS becomes an array with an array for each case: for each host the rule that decides, as
// {refused, list, rule}, or null if none matches.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const [modules, cases, verdicts] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const {
  CompatibilityTypes, DnsEngine, RuleStorage, StringRuleList, setConfiguration, setLogger,
} = require("@adguard/tsurlfilter");

// As a DNS server sets it up. It says of each rule that it cannot use why, and here nobody reads it.
setConfiguration({ compatibility: CompatibilityTypes.Dns });
const silent = () => {};
setLogger({ debug: silent, error: silent, info: silent, warn: silent });

function verdict(engine, host) {
  const { basicRule, hostRules } = engine.match(host);
  const rule = basicRule ?? hostRules[0];
  if (!rule) return null;
  const refused = !basicRule?.isAllowlist();
  return { refused, list: rule.getFilterListId() - 1, rule: rule.getText() };
}

const answers = JSON.parse(readFileSync(cases, "utf8")).map(({ lists, hosts }) => {
  const storage = new RuleStorage(lists.map((text, at) => new StringRuleList(at + 1, text, true)));
  const engine = new DnsEngine(storage);
  return hosts.map((host) => verdict(engine, host));
});
writeFileSync(verdicts, JSON.stringify(answers));
