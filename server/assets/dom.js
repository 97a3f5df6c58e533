// Elements, made and kept: a row that stays is updated in place, so focus is never lost.

/** An element with attributes, properties (`.name`) and children. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    // Never as an attribute: the page's policy forbids styles in markup.
    if (name === "style") Object.assign(element.style, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
}

/** Writes text only where it changed: screen readers are not woken for nothing. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/** Makes `parent` hold one element an item, in order; elements are kept by key. */
export function keyed(parent, items, key, make, update) {
  const known = (parent.kept ??= new Map());
  const seen = new Set();
  items.forEach((item, at) => {
    const name = key(item);
    seen.add(name);
    let element = known.get(name);
    if (!element) known.set(name, (element = make(item)));
    if (parent.children[at] !== element) parent.insertBefore(element, parent.children[at] ?? null);
    update(element, item, at);
  });
  for (const [name, element] of known) {
    if (seen.has(name)) continue;
    element.remove();
    known.delete(name);
  }
}
