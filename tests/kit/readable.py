"""Whether people can read a page: JavaScript for a browser."""

LOW_CONTRAST = """
(() => {
  const channels = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = channels(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > .5) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const d of document.querySelectorAll('details')) d.open = true;
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    // Text inside bars stands on the bar's colour; the palette's own test covers it.
    if (!own || e.closest('desc,title') || e.classList.contains('inside') || !e.getClientRects().length) continue;
    const style = getComputedStyle(e);
    const colour = channels(e.ownerSVGElement ? style.fill : style.color);
    const [a, b] = [light(colour), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) found.push([e.textContent.trim().slice(0, 40), ratio]);
  }
  return found;
})()
"""
"""Texts whose contrast with what is behind them is below 4.5, each with its contrast. Opens what is folded."""
