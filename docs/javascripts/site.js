/* Typesets the mathematics and lets the copy button leave out prompts and outputs. */

(function () {
  "use strict";

  function typeset() {
    document.querySelectorAll(".arithmatex").forEach(function (element) {
      const source = element.textContent.trim();
      katex.render(source.slice(2, -2), element, {
        displayMode: source.startsWith("\\["),
        throwOnError: false,
        strict: "error",
      });
    });
  }

  /* What a reader wants to paste: the lines behind `>>>` and `...`, without these. */
  function input(text) {
    const lines = [];
    let continues = false;
    text.split("\n").forEach(function (line) {
      const prompt = /^(>>>|\.\.\.)( |$)/.exec(line);
      continues = prompt !== null && (prompt[1] === ">>>" || continues);
      if (continues) lines.push(line.slice(4));
    });
    return lines.join("\n");
  }

  function prepareCopies() {
    document.querySelectorAll(".language-pycon code").forEach(function (code) {
      code.setAttribute("data-copy", input(code.textContent));
    });
  }

  /* A block that scrolls must be reachable by the keyboard; which ones do depends on the width. */
  function reachScrollers() {
    document.querySelectorAll("div.arithmatex, .md-typeset__scrollwrap").forEach(function (box) {
      if (box.scrollWidth > box.clientWidth) box.setAttribute("tabindex", "0");
      else box.removeAttribute("tabindex");
    });
  }

  /* The theme gives its search dialog a role but no name. */
  document.querySelectorAll(".md-search[role=dialog]").forEach(function (dialog) {
    dialog.setAttribute("aria-label", "Search");
  });

  typeset();
  prepareCopies();
  document.fonts.ready.then(reachScrollers);
  window.addEventListener("resize", reachScrollers);
})();
