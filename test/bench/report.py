"""From measurements to a table, a plot, and the guard's verdict.

A ratio is that of two medians; its spread is the least and the greatest ratio
of the pairs.  Files: report.md, ratios.svg, recorded.tsv.
"""

from statistics import median
from xml.sax.saxutils import escape

WORSE = 1.15            # what bench-check allows


class Result:
    """One line: pairs of (heap, cmek) values; a lower ratio is better."""

    def __init__(self, group, name, unit, target=None, throughput=False):
        self.group, self.name, self.unit, self.target = group, name, unit, target
        self.throughput = throughput    # which is what the target is about: wall clock, that is
        self.pairs = []
        self.wall = []
        self.pgcrypto = []
        self.pgcrypto_share = 1
        self.cipher = []        # what the cipher alone would take, measured beside each pair

    def heap(self):
        return median(p[0] for p in self.pairs)

    def cmek(self):
        return median(p[1] for p in self.pairs)

    def ratio(self):
        return self.cmek() / self.heap()

    def floor(self):
        """1 + the cipher / heap"""
        return 1 + median(self.cipher) / self.heap() if self.cipher and None not in self.cipher else None

    def spread(self):
        ratios = [b / a for a, b in self.pairs]
        return min(ratios), max(ratios)

    def wall_ratio(self):
        return median(p[1] for p in self.wall) / median(p[0] for p in self.wall) if self.wall else None

    def pgcrypto_ratio(self):
        return median(self.pgcrypto) * self.pgcrypto_share / self.heap() if self.pgcrypto else None

    def judged(self):
        """The ratio that the target is about"""
        return self.wall_ratio() if self.throughput else self.ratio()

    def met(self):
        return self.target is None or round(self.judged(), 2) <= round(self.target, 2)

    def summary(self):
        text = 'ratio %.2f' % self.judged()
        if self.target is not None:
            text += ', target %.2f, %s' % (self.target, 'met' if self.met() else 'NOT MET')
        return text


class Absolute:
    """A line that has no ratio: milliseconds, rows a second, bytes."""

    def __init__(self, name, value, target=None, met=None):
        self.name, self.value, self.target, self.met = name, value, target, met


def number(value):
    if value is None:
        return ''
    if value >= 100:
        return '{:,.0f}'.format(value)
    return '%.3g' % value


def ratio_text(value):
    return '' if value is None else '%.2f' % value


def row(cells):
    return '| ' + ' | '.join(cells) + ' |\n'


def table(results):
    out = row(['case', 'unit', 'heap', 'sealed', 'ratio', 'spread', 'wall clock', 'floor', 'target', '', 'pgcrypto'])
    out += row(['---', '---', '---:', '---:', '---:', '---', '---:', '---:', '---:', '---', '---:'])
    for r in results:
        low, high = r.spread()
        out += row([r.name, r.unit, number(r.heap()), number(r.cmek()), '**%.2f**' % r.ratio(),
                    '%.2f - %.2f' % (low, high) if len(r.pairs) > 1 else '',
                    ratio_text(r.wall_ratio()), ratio_text(r.floor()),
                    ratio_text(r.target) + (' (wall clock)' if r.throughput and r.target else ''),
                    '' if r.target is None else 'met' if r.met() else '**not met**',
                    ratio_text(r.pgcrypto_ratio())])
    return out


def markdown(title, facts, results, absolutes):
    out = '# %s\n\nMade by `make %s`. ' % ('Sealed tables against stock heap', title)
    out += ('Ratios are sealed / heap, of the medians of CPU time of the backend (workers included) unless\nthe unit says otherwise; '
            'less is better. Spread: the least and the greatest ratio of the pairs.\n'
            'Targets of throughput are about wall clock, pgbench itself included.\n'
            'Floor: 1 + the time the cipher alone needs for these rows / the time of heap. pgcrypto: its ratio to heap, where it applies.\n\n')
    out += ''.join('- %s\n' % fact for fact in facts) + '\n![ratios](ratios.svg)\n'
    for group in dict.fromkeys(r.group for r in results):
        out += '\n## %s\n\n%s' % (group, table([r for r in results if r.group == group]))
    out += '\n## Without a ratio\n\n' + row(['what', 'value', 'target', '']) + row(['---', '---:', '---:', '---'])
    for a in absolutes:
        out += row([a.name, a.value, a.target or '',
                    '' if a.met is None else 'met' if a.met else '**not met**'])
    missed = [r.name for r in results if not r.met()] + [a.name for a in absolutes if a.met is False]
    out += '\nTargets not met: %s.\n' % ('; '.join(missed) or 'none')
    return out


def svg(results):
    """Bars of the ratios with their targets, clipped at 3."""
    left, scale, high, most = 270, 180, 18, 3.0
    out = ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">\n'
           % (left + scale * most + 60, 50 + high * len(results)))
    out += '<rect width="100%" height="100%" fill="white"/>\n'
    for tick in (0, 0.5, 1, 1.5, 2, 2.5, 3):
        x = left + tick * scale
        out += ('<line x1="%g" x2="%g" y1="20" y2="%d" stroke="%s"/><text x="%g" y="14" text-anchor="middle">%g</text>\n'
                % (x, x, 26 + high * len(results), '#333' if tick == 1 else '#ddd', x, tick))
    for i, r in enumerate(results):
        y = 24 + i * high
        colour = '#777' if r.target is None else '#2a7' if r.met() else '#c63'
        out += ('<text x="%d" y="%d" text-anchor="end">%s</text><rect x="%d" y="%d" width="%g" height="12" fill="%s"/>'
                % (left - 6, y + 10, escape(r.name), left, y, min(r.judged(), most) * scale, colour))
        if r.target is not None:
            x = left + r.target * scale
            out += '<line x1="%g" x2="%g" y1="%d" y2="%d" stroke="black" stroke-width="2"/>' % (x, x, y - 2, y + 14)
        out += '<text x="%g" y="%d">%.2f</text>\n' % (left + min(r.judged(), most) * scale + 5, y + 10, r.judged())
    out += ('<text x="%d" y="%d">sealed / heap, CPU time, for throughput wall clock; green: target (black mark) met, orange: not, grey: none</text>\n</svg>\n'
            % (left, 42 + high * len(results)))
    return out


def recorded_text(key, results):
    """Lines for recorded.tsv: on what, case, ratio."""
    return ''.join('%s\t%s\t%.3f\n' % (key, r.name, r.ratio()) for r in results)


def recorded_read(path, key):
    """Case -> ratio of the lines for "key"; of the first key where there are none."""
    with open(path) as f:
        lines = [line.rstrip('\n').split('\t') for line in f if line.strip() and not line.startswith('#')]
    if not any(line[0] == key for line in lines):
        key = lines[0][0]
    return key, {line[1]: float(line[2]) for line in lines if line[0] == key}


def check(results, recorded):
    """Sentences about what is worse than recorded."""
    return ['%s: %.2f, recorded %.2f' % (r.name, r.ratio(), recorded[r.name])
            for r in results if r.name in recorded and r.ratio() > recorded[r.name] * WORSE]
