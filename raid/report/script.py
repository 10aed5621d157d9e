"""What the pages answer the keyboard and the pointer with: every page is whole without it.

Light or dark, tables that are sorted by a column, ranked lists that are gone through, filtered, sorted and
enlarged. The page's policy names this text by its hash, so that no other script runs.
"""

import base64
import hashlib

SCRIPT = """
(() => {
'use strict';
const root = document.documentElement, nav = document.querySelector('nav');
const all = (query, node = document) => [...node.querySelectorAll(query)];
const make = (tag, text, given) => Object.assign(document.createElement(tag), {textContent: text}, given);
const button = (text, act) => make('button', text, {type: 'button', onclick: act});
root.classList.add('script');

// Light or dark: the system's, until somebody chooses. A browser may keep nothing for a file.
const system = matchMedia('(prefers-color-scheme: dark)');
const chosen = value => {
  try { value ? localStorage.setItem('raid-look', value) : value = localStorage.getItem('raid-look'); }
  catch { /* then for this view alone */ }
  return value;
};
const look = button('', () => { root.dataset.look = chosen(isDark() ? 'light' : 'dark'); told(); });
const isDark = () => (root.dataset.look || (system.matches ? 'dark' : 'light')) === 'dark';
const told = () => { look.textContent = isDark() ? '☀ Light' : '☾ Dark'; };
const before = chosen();
if (before === 'light' || before === 'dark') root.dataset.look = before;
system.addEventListener('change', told);
told();

// Tables: a header sorts; empty cells stay last. What is folded away is sorted with what is shown.
const NUMBER = /^[(⚠✓✗\\s+−-]*[\\d.,]*\\d(e[+-]?\\d+)?([\\s±%★)].*|)$/;
const SECONDS = {h: 3600, min: 60, s: 1};
const spoken = text => [...text.matchAll(/([\\d.]+) (h|min|s)(?= |$)/g)];
const worth = text => {
  const parts = spoken(text);
  if (parts.length) return parts.reduce((sum, [, count, unit]) => sum + count * SECONDS[unit], 0);
  return parseFloat(text.replace(/−/g, '-').replace(/[^\\d.e+-]*(?=[\\d.+-])/, '').replace(/,/g, ''));
};
const rowsOf = table => all('tbody > tr:not(.total)', table);
const group = table => table.dataset.group
  ? all('table.sortable').filter(other => other.dataset.group === table.dataset.group) : [table];
function sortBy(tables, column, direction) {
  const rows = tables.flatMap(rowsOf), counts = tables.map(table => rowsOf(table).length);
  rows.forEach((row, place) => { row.dataset.place ??= place; });
  const text = row => row.cells[column]?.textContent.trim() ?? '';
  const empty = row => /^[–-]?$/.test(text(row)), number = row => NUMBER.test(text(row));
  const numbers = rows.filter(number).length * 2 > rows.filter(row => !empty(row)).length;
  const missing = row => empty(row) || numbers && !number(row);
  const order = (a, b) => numbers ? worth(text(a)) - worth(text(b))
    : text(a).localeCompare(text(b), undefined, {numeric: true});
  const place = (a, b) => a.dataset.place - b.dataset.place;
  rows.sort((a, b) => direction
    ? missing(a) - missing(b) || direction * (missing(a) ? 0 : order(a, b)) || place(a, b) : place(a, b));
  tables.forEach((table, number) => {
    const body = table.tBodies[0], last = all('tr.total', body);
    body.append(...rows.splice(0, counts[number]), ...last);
  });
}
for (const table of all('table.sortable')) all('thead th', table).forEach((head, column) => {
  const sorts = button('', () => {
    const next = {ascending: 'descending', descending: undefined}[head.ariaSort];
    const now = head.ariaSort ? next : 'ascending', tables = group(table);
    for (const each of tables) {
      all('thead th', each).forEach(other => other.removeAttribute('aria-sort'));
      if (now) all('thead th', each)[column].setAttribute('aria-sort', now);
    }
    sortBy(tables, column, {ascending: 1, descending: -1}[now] || 0);
  });
  sorts.title = 'Sort by this column';
  sorts.append(...head.childNodes);
  head.append(sorts);
});

// Ranked lists and pairs: filtered, and sorted.
for (const controls of all('.controls')) {
  const section = controls.closest('section');
  const lists = all('.list', section), pairs = all('.pairs li', section);
  const field = name => controls.querySelector(`[name=${name}]`);
  const value = name => field(name)?.value || '';
  const filter = () => {
    const text = value('text').toLowerCase();
    const said = node => (node.dataset.text || '').toLowerCase().includes(text);
    for (const list of lists) {
      const items = all('li:not(.query)', list);
      const at = value('gallery');
      for (const item of items) item.hidden = at !== '' && item.dataset.camera !== at;
      const seen = items.filter(item => !item.hidden);
      list.hidden = value('query') !== '' && list.dataset.camera !== value('query')
        || field('wrong')?.checked && list.dataset.first !== 'wrong'
        || at !== '' && !seen.length
        || text !== '' && !said(list) && !seen.some(said);
    }
    const by = value('pair');
    for (const pair of pairs) {
      pair.hidden = by !== '' && ![pair.dataset.camera, pair.dataset.other].includes(by);
    }
    const every = [...lists, ...pairs], shown = every.filter(one => !one.hidden).length;
    controls.querySelector('output').value = `${shown} of ${every.length} ${controls.dataset.what}`;
  };
  const sort = () => {
    const [by, sign] = value('sort').split(' ');
    const worth = list => parseFloat(list.dataset[by]);
    const sorted = [...lists].sort((a, b) =>
      isNaN(worth(a)) - isNaN(worth(b)) || (isNaN(worth(a)) ? 0 : sign * (worth(a) - worth(b)))
      || a.dataset.order - b.dataset.order);
    sorted.forEach(list => list.parentElement.append(list));
  };
  controls.addEventListener('input', filter);
  field('sort')?.addEventListener('input', sort);
  if (field('sort')) sort();
  filter();
}

// Pictures: enlarged.
const large = make('dialog', '', {className: 'large'}), frame = make('div', ''), words = make('p', '');
large.append(frame, words, button('Close', () => large.close()));
large.addEventListener('click', event => { if (event.target === large) large.close(); });
const pictured = '.strip li:has(img), .pairs li:has(img)';
let current = null;
const enlarge = item => {
  const images = all('img', item);
  current = item;
  frame.replaceChildren(...images.map(image => {
    const copy = make('img', '', {src: image.src, alt: image.alt});
    copy.style.maxWidth = `calc(min(70vh, 36rem) * ${image.naturalWidth / image.naturalHeight})`;
    return copy;
  }));
  const said = [item.querySelector('b')?.textContent, ...images.map(image => image.alt)];
  words.textContent = said.filter(Boolean).join(' · ');
  if (!large.open) large.showModal();
};
large.addEventListener('close', () => current?.focus());
for (const item of all(pictured)) {
  item.tabIndex = item.parentElement.matches('.pairs') ? 0 : -1;  // a strip is gone to as a whole
  item.addEventListener('click', () => enlarge(item));
}
const beside = (item, step) => {
  const items = all('li:has(img)', item.parentElement).filter(other => !other.hidden);
  return items[items.indexOf(item) + step];
};

// Keys.
const help = make('dialog', '', {className: 'help'}), keys = make('dl', '');
const explain = (key, what) => keys.append(make('dt', key), make('dd', what));
const lists = () => all('.list').filter(list => !list.hidden);
if (lists().length) {
  explain('j, ↓', 'next list');
  explain('k, ↑', 'list before');
}
if (all(pictured).length) {
  explain('← →', 'from picture to picture');
  explain('Enter', 'enlarge the picture');
}
if (document.querySelector('[name=text]')) explain('/', 'filter');
if (all('table.sortable').length) explain('Tab, Enter', 'on the head of a table: sort by the column');
explain('d', 'light or dark');
explain('Esc', 'close');
explain('?', 'these keys');
help.append(make('h2', 'Keys'), keys, button('Close', () => help.close()));
document.body.append(large, help);
const tools = make('span', '', {className: 'tools'});
tools.append(look, button('? Keys', () => help.showModal()));
nav?.append(tools);
const box = list => list.querySelector('.scroll');
const go = step => {
  const open = lists(), at = open.findIndex(list => list.contains(document.activeElement));
  const near = open.find(list => list.getBoundingClientRect().bottom > 80) ?? open[0];
  const to = at < 0 ? near : open[at + step];
  if (!to) return;
  box(to).focus({preventScroll: true});
  to.scrollIntoView({block: 'nearest'});
};
function pressed(event) {
  const at = document.activeElement, item = large.open ? current : at.closest?.(pictured);
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (large.open) {
    const next = step && beside(item, step);
    if (next) enlarge(next);
    return Boolean(step);
  }
  const inList = at.closest?.('.list'), arrows = inList || document.body.classList.contains('answers');
  switch (event.key) {
    case 'j': go(1); return true;
    case 'k': go(-1); return true;
    case 'ArrowDown': if (arrows) go(1); return arrows;
    case 'ArrowUp': if (arrows) go(-1); return arrows;
    case 'ArrowRight': case 'ArrowLeft': {
      const first = at.matches?.('.scroll') && step > 0 && at.querySelector('li:has(img)');
      const to = item ? beside(item, step) : first;
      to?.focus();
      return Boolean(to);
    }
    case 'Enter': {
      const it = item ?? (at.matches?.('.scroll') && at.querySelector('li:has(img)'));
      if (it) enlarge(it);
      return Boolean(it);
    }
    case '/': document.querySelector('[name=text]')?.focus(); return true;
    case 'd': look.click(); return true;
    case '?': help.showModal(); return true;
  }
  return false;
}
addEventListener('keydown', event => {
  if (event.ctrlKey || event.altKey || event.metaKey || help.open) return;
  if (event.target.matches?.('input, select, textarea')) {
    if (event.key === 'Escape') event.target.blur();
    return;
  }
  if (event.target.matches?.('button, a, summary') && event.key === 'Enter') return;
  if (pressed(event)) event.preventDefault();
});
})();
"""


def script_hash() -> str:
    """Return what a page's policy knows `SCRIPT` by."""
    digest = hashlib.sha256(SCRIPT.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
