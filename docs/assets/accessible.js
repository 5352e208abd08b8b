"use strict";
// What keyboards and screen readers miss in the theme: each copy button stands in a navigation landmark of its own, which
// has no name and is none, and long lines and wide tables can be scrolled by hand alone. The theme makes and changes both late.
const mend = () => {
  for (const each of document.querySelectorAll(".md-code__nav")) each.setAttribute("role", "none");
  for (const box of document.querySelectorAll("pre > code, .md-typeset__scrollwrap")) {
    if (box.scrollWidth > box.clientWidth && !box.hasAttribute("tabindex")) box.setAttribute("tabindex", "0");
  }
};
new MutationObserver(mend).observe(document.body, { attributeFilter: ["tabindex"], childList: true, subtree: true });
addEventListener("resize", mend);
