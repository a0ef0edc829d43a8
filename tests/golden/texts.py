"""Seeded texts for the golden files: many scripts, odd characters, and every length to 512."""
import random

ENGLISH = (
    "river stone market winter engine letter garden silver planet signal harbor teacher bread "
    "cloud mirror forest copper window travel number music doctor castle pepper island report "
    "the a of in to and with for is was not very old new small why how where when which does "
    "run runs running rebuild unhappiness internationalization co-operate don't it's 3.14 1984"
).split()
KOREAN = (
    "검색 순위 문서 질문 서울 바다 겨울 편지 사과 도서관 학교에서 배웠습니다 어디에 있나요 "
    "가장 높은 산은 무엇입니까 기차가 출발했다 맛있는 김치찌개 뚫훑쀍"
).split()
JAPANESE = "東京 の 天気 は どう です か 図書館 で 本 を 読む カタカナ ひらがな ﾊﾝｶｸ 検索 順位".split()
OTHER = (
    "Привет мир поиск naïve café Ångström Straße ĲSSEL İstanbul ñandú שלום مرحبا สวัสดี "
    "नमस्ते 你好 世界 𠮷野家 ﬁnancial ½ Ⅷ ㎏ Ｆｕｌｌ"
).split()
EMOJI = "😀 🚀 👩‍👩‍👧‍👦 🇰🇷 ❤️ 👍🏽 🤷🏻‍♀️ ☕ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ©️".split()
POOLS = [ENGLISH] * 5 + [KOREAN, JAPANESE, OTHER, EMOJI, ENGLISH + KOREAN, ENGLISH + EMOJI + OTHER]

# Written out because each once broke some tokenizer.
ODD = [
    ("", ""),
    ("", "a document without a query"),
    ("a query without a document", ""),
    (" ", " \t\n "),
    ("x", "y"),
    ("!", "?"),
    ("e\u0301te\u0301", "\u00e9t\u00e9"),  # combining against composed
    ("\u1100\u1161\u11a8", "\uac01"),  # conjoining jamo against a syllable
    ("a\u0300\u0301\u0302\u0303b", "z\u0351\u0352a\u0489lgo"),
    ("null\x00byte", "bell\x07 escape\x1b[0m delete\x7f"),
    ("zero\u200bwidth\u200djoiner", "soft\u00adhyphen \ufeffbom \u2060word joiner"),
    ("right\u202eto left", "\u2028line\u2029paragraph"),
    ("replacement \ufffd", "private \ue000 use \U000f0000"),
    ("tab\tnew\nline\r\nreturn", "no\u00a0break\u3000ideographic\u2003em"),
    ("[CLS] inside [SEP]", "[MASK] [PAD] [UNK] [cls] literal"),
    ("[SEP][SEP]", "text [SEP] more"),
    ("C++ vs. C#?", "std::vector<int> v{1,2}; // O(n)"),
    ("https://example.org/a?b=c&d=%20", "mail someone@example.org, or call +1 (555) 010-0000"),
    ("$100 €50 £20 ₩1000", "50% ± 2° § ¶ † ‡ • …"),
    ("“curly” ‘quotes’ «guillemets»", "em—dash en–dash minus− hyphen‐"),
    ("UPPER lower MiXeD", "upper LOWER mIxEd"),
    ("a" * 99, "b" * 100),  # WordPiece gives up on words above 100 characters
    ("c" * 101, "d" * 150),
    ("가" * 60, "漢" * 60),
    ("ﷺ ﷽", "ǆ ǅ Ǆ ß ẞ ſ"),
    ("🏳️‍🌈" * 5, "🧑🏿‍🚀" * 5),
    ("what is the boiling point of water", "Water boils at 100 degrees Celsius at sea level."),
    ("what is the boiling point of water", "The library opens at nine and closes at six."),
    ("서울의 인구는 얼마인가요?", "서울은 대한민국의 수도이며 많은 사람이 산다."),
    ("東京タワーの高さ", "東京タワーは高い塔です。"),
]


def words(rng, count):
    pool = rng.choice(POOLS)
    return " ".join(rng.choice(pool) for _ in range(count))


def pairs(seed, count, longest):
    """`count` (query, document) pairs, about a sixth of them near or over `longest` tokens."""
    rng = random.Random(seed)
    out = list(ODD)
    out += [(words(rng, 8), words(rng, n)) for n in (longest // 3, longest, 2 * longest)]
    out.append((words(rng, 2 * longest), "a short document"))  # over-long query alone
    out.append((words(rng, longest), words(rng, longest)))  # both
    out.append(("", words(rng, 2 * longest)))
    # On and around the exact limit: one token per word, three specials.
    out += [("stone river", " ".join(["market"] * (longest - 5 + n))) for n in (-2, -1, 0, 1, 2)]
    out += [(" ".join(["market"] * (longest // 2 + n)), "river") for n in (-1, 0, 1)]
    while len(out) < count:
        size = rng.choice([1, 2, 5, 10, 20, 40, 80, 120])
        if rng.random() < 0.08:
            size = rng.randint(longest // 3, longest)
        out.append((words(rng, rng.randint(1, 15)), words(rng, size)))
    return out
