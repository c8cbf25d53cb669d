"""The maths reward on completions as models write them: right and wrong answers in forms that graders disagree on."""

import gzip
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.rewards.math.answer_extraction import gold_form
from posttrain.rewards.math.math_answer import MathAnswerReward
from posttrain.rewards.reward import RewardInput
from posttrain.types import Example

DATA = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"

Case = tuple[str, str, int]


@pytest.fixture(scope="module")
def reward() -> Iterator[MathAnswerReward]:
    reward = MathAnswerReward(timeout_s=20)
    yield reward
    reward.close()


def disagreements(reward: MathAnswerReward, cases: Sequence[Case], **metadata: Any) -> list[str]:
    inputs = [
        RewardInput(Example(str(i), "", gold, metadata=metadata), text) for i, (gold, text, _) in enumerate(cases)
    ]
    return [
        f"{gold!r} {text!r}: {output.score}, not {right} {output.message}"
        for (gold, text, right), output in zip(cases, reward.score(inputs), strict=True)
        if output.score != right
    ]


# gold, completion, right?  School problems: where the answer is, and what is around it.
COMPLETIONS = [
    ("18", "Janet sells 16 - 3 - 4 = 9 eggs. She makes 9 * 2 = $18 every day.\n#### 18", 1),
    ("18", "Janet sells 16 - 3 - 4 = 9 eggs. She makes 9 * 2 = **$18** every day at the farmer's market.", 1),
    ("18", "She makes $18 per day, selling 9 eggs at $2 each.", 0), ("18", "The answer is $18.00 per day.", 1),
    ("18", "Therefore, Janet makes **$18** every day.", 1),
    ("18", r"The final answer is: $\boxed{18}$. I hope it is correct.", 1),
    ("18", "Final Answer: The final answer is $18$. I hope it is correct.", 1),
    ("18", "The answer is 18 dollars. To check: 9*2 = 18.", 1),
    ("18", "The answer is 18.\n\nQ: Another question has 5 apples\nA: 5", 1),
    ("18", "Answer: 18\n\nExplanation: 16 eggs minus 7 eggs is 9 eggs. 9 x 2 = 18.", 1),
    ("18", "#### 18\n\nNote: She sells 9 eggs.", 1), ("18", "#### $18 per day", 1), ("18", "####18", 1),
    ("18", "#### 18 dollars", 1), ("18", "#### Janet makes 18 dollars", 1), ("18", "### Answer\n18", 1),
    ("18", "## Final Answer\n\n$18", 1), ("18", "**Answer**: 18", 1),
    ("18", "**Final Answer**\n\nThe final answer is $\\boxed{18}$", 1), ("18", "The answer is\n\n**18**", 1),
    ("18", "So the answer is `18`.", 1), ("18", "the total is 18\n", 1), ("18", "Total = 9 × $2 = $18", 1),
    ("18", r"Total = 9 \times 2 = 18$", 1), ("18", r"So, $9 \times 2 = 18$ dollars.", 1),
    ("18", r"So the answer is $9 \times 2 = 18$ dollars.", 1), ("18", "So the answer is 9*2=18 dollars.", 1),
    ("18", "The answer is 9 * 2 = <<9*2=18>>18.", 1),
    ("18", "The answer is 20. Wait, that is wrong. Let me recompute. The answer is 18.", 1),
    ("18", r"First guess \boxed{20}. Hmm, wait. Actually \boxed{18}.", 1), ("18", r"\boxed{18} dollars", 1),
    ("18", r"\boxed{\$18}", 1), ("18", r"\boxed{\text{\$}18}", 1), ("18", r"\boxed{18 \text{ dollars}}", 1),
    ("18", r"\boxed{18\ \text{dollars per day}}", 1), ("18", r"\boxed{\text{18 dollars}}", 1),
    ("18", r"\boxed{\mathbf{18}}", 1), ("18", r"\boxed{ 18 }", 1), ("18", r"\boxed{18.}", 1), ("18", r"\boxed 18", 1),
    ("18", r"\boxed{x = 18}", 1), ("18", r"\boxed{\text{Janet makes } 18 \text{ dollars}}", 1),
    ("18", r"$\fbox{18}$", 1), ("18", r"\boxed{9 \times 2 = 18}", 1), ("18", "She has 18 left", 1),
    ("18", "She has eighteen left", 0), ("70000", "#### 70,000", 1),
    ("70000", "His profit is $200,000-$130,000=$70,000", 1), ("70000", "#### $70000.00", 1),
    ("70000", "The profit is 70 thousand dollars", 1), ("540", "He runs 540 meters a week", 1),
    ("540", "He runs 540m a week.", 1), ("540", "Answer: 540 meters/week", 1), ("20", "#### 20 cups", 1),
    ("64", "#### 64.0", 1), ("160", "it takes 160 minutes.", 1),
    ("160", "it takes 2 hours and 40 minutes = 160 minutes.", 1),
    ("160", "The answer is 2 hours and 40 minutes, or 160 minutes.", 1), ("45", "He is 45 miles from home.", 1),
    ("366", "366 downloads in total", 1), ("694", "The total is $250+$144+$100+$200=$694.", 1),
    ("13", "The total is 13.\nThe answer is: 13", 1), ("60", "60% of the students", 1), ("60", "#### 60%", 1),
    ("60", "#### 0.6", 0), ("25", r"The percentage is 25\%.", 1), ("10", "10 percent", 1),
    ("5", "The answer is five", 0), ("4", "#### 4 1/2", 0), ("4.5", "#### 4 1/2", 1), ("4.5", "#### 4½", 1),
    ("122", "#### 122 years old", 1), ("3:30", "He arrives at 3:30.", 1), ("3:30", "The answer is 3:30 PM.", 1),
    ("3:30", "The answer is 3:45 PM.", 0), ("3:30", r"\boxed{3:30}", 1), ("3:30", r"\boxed{3{:}30 \text{ PM}}", 1),
    ("5", "The ratio is 5:1", 0), ("2.50", "#### $2.5", 1), ("-5", "#### -5", 1),
    ("-5", "The temperature is -5 degrees", 1), ("1", "#### 1/1", 1), ("0.25", "#### 1/4", 1),
    ("25", "The answer is 25 (since 5*5=25).", 1), ("25", "The answer is 25, not 26.", 1),
    ("25", "Hence the correct answer would be 25.", 1), ("25", "Answer = 25", 1), ("25", "ANSWER: 25", 1),
    ("25", "Ans: 25", 1), ("25", "A) 24 B) 25\nAnswer: 25", 1), ("25", "The answer to this question is 25 apples.", 1),
    ("25", "The result is 25. The total number of days is therefore 25 days.", 1),
    ("25", "I think the answer might be 25", 1), ("25", "We need 5 more, thus 25 apples (5 of which are red).", 0),
    ("25", "The answer is approximately 25.0", 1), ("25", "The answer is 5*5.", 1), ("25", "The answer is: 25 ", 1),
    ("25", "The answer is 24 or 25.", 0), ("25", r"The answer is \(25\).", 1), ("25", r"The answer is \[25\].", 1),
    ("25", "The answer is:\n\\[\n25\n\\]", 1), ("25", "The answer is:\n$$\n25 \\text{ apples}\n$$", 1),
    ("25", r"The answer is $\text{25}$", 1), ("25", "My answer: <answer>25</answer>", 1),
    ("25", "<answer>25</answer>", 1), ("25", "<think>maybe 26</think><answer>25</answer>", 1),
    ("25", "Is the answer correct? Let's verify: 5 × 5 = 25. ✓", 1),
    ("25", "The answer is 25.\nVerification: 20 + 5 = 25, and 30 - 5 = 25. Both checks pass in 2 ways.", 1),
    ("25", "So there are 25 students.\n\n---\n\nLet me know if you need more help with problem 2!", 0),
    ("1000000", "The answer is $1 million.", 1), ("1000000", "#### 1,000,000", 1), ("1.5", r"\boxed{1\frac{1}{2}}", 1),
    ("1.5", r"\boxed{1 \frac12}", 1), ("1.5", r"\boxed{1\,\tfrac{1}{2}}", 1),
    ("1.5", r"\boxed{\frac{3}{2}\text{ hours}}", 1), ("1.5", r"\boxed{\frac32 \text{ hours}}", 1),
    ("5", "5 + 0 = 5\n\nThe answer is 5\n\nThe answer is 5", 1), ("12", "He needs 12 (twelve) eggs", 1),
    ("12", "The number is 12th", 1), ("12", "He will be 12-years-old", 1), ("12", "It costs 12$.", 1),
    ("12", "It costs 12€.", 1), ("12", "It costs €12.", 1), ("12", "It costs USD 12.", 1),
    ("12", "It costs 12 USD.", 1), ("12", "It costs Rs. 12", 1), ("12", "The cost is 12.00 dollars.", 1),
    ("12", "The answer is (12).", 1), ("12", "The answer is {12}.", 1), ("12", "The answer is [12].", 1),
    ("12", 'The answer is "12".', 1), ("12", "The answer is '12'.", 1), ("12", "The answer is →12", 1),
    ("12", "The answer is ≈ 12", 1), ("12", "Answer:12.", 1), ("12", "**The answer is 12**", 1),
    ("12", "*Answer: 12*", 1), ("12", "The answer is __12__.", 1), ("12", "The answer is <b>12</b>", 1),
    ("18", "#### Step 1: Count the eggs\n16-7=9\n\n#### Step 2: Multiply by 2\n9*2=18\n\nJanet makes $18.", 1),
    ("18", "#### 1. Count\n16-7=9\n#### 2. Multiply\n9*2 = 18\n\n**Answer: $18**", 1), ("18", "#### Answer: 18", 1),
    ("18", "#### Final Answer\n18 dollars per day", 1), ("18", r"#### Final Answer: \boxed{18}", 1),
    ("18", "#### Total\n9 * 2 = **18** dollars", 1),
    ("18", "### Step 3: the total\n\nSo Janet makes $9 \\times 2 = 18$ dollars every day at the farmers' market.", 1),
    ("18", "#### 18 (eighteen dollars)", 1), ("18", "#### 18.", 1), ("18", "#### $18 dollars", 1),
    ("18", "####  18\n\nThe answer is 18.", 1), ("18", "#### 18\n#### 18", 1), ("18", "#### 18 <|endoftext|>", 1),
    ("18", "#### 18</s>", 1), ("18", "The answer is 18<|im_end|>", 1), ("18", r"\boxed{18}<|eot_id|>", 1),
    ("18", "#### **18**", 1), ("18", r"#### \boxed{18}", 1), ("18", r"#### $\$18$", 1),
    ("18", "#### 18 eggs * $1 = $18", 1), ("18", "#### 9 * 2 = 18", 1), ("18", "#### =18", 1),
    ("18", "#### about 18", 1),
    ("18", "16 - 3 = 13. 13 - 4 = 9. So the answer is $18 per day. Let me know if you have 2 or more questions.", 1),
    ("18", "So she makes 18 dollars a day. Is the answer right? Yes: 9 eggs at 2 dollars.", 0),
    ("18", r"Thus, Janet makes a total of \$18 each day.", 1), ("18", r"Janet makes \( 9 \times 2 = 18 \) dollars.", 1),
    ("18", r"Janet makes \[ 9 \times 2 = \boxed{18} \] dollars every day.", 1),
    ("18", r"\[ \text{Total} = 9 \times \$2 = \$18 \]", 1),
    ("18", "\\[ 9 \\times 2 = 18 \\text{ dollars} \\]\nTherefore, she makes 18 dollars daily.", 1),
    ("18", "Final answer: she makes 18 dollars.", 1), ("18", "Answer: Janet makes $18 every day.", 1),
    ("18", "Answer: She sells 9 eggs at $2, so she makes $18.", 1),
    ("18", "The answer is: Janet makes $18 per day at the farmers' market.", 1),
    ("18", "The final answer is **$18**.", 1), ("18", "The total amount is therefore **18 dollars**.", 1),
    ("18", "**Janet makes $18 every day.**", 1),
    ("18", "**So, Janet makes $18 every day at the farmers' market.** ", 1), ("18", "Hence, the answer = 18", 1),
    ("18", "ANSWER: $18.00", 1), ("18", "answer: 18", 1), ("18", "The answer: 18", 1), ("18", "Result: 18", 1),
    ("18", "x = 18", 1), ("18", "So x = 18, and y = 20. The answer is x.", 0), ("18", "The answer is $x = 18$.", 1),
    ("18", "The correct answer is A) 18", 1), ("18", "The answer is option C: 18", 1),
    ("18", r"Therefore, the answer is $\mathbf{18}$.", 1), ("18", "Therefore the answer is $$18.$$", 1),
    ("18", "answer is 18 dollars and 0 cents", 1), ("18", "The answer is 18 dollars, i.e., 1800 cents.", 1),
    ("18", "The answer is $18, or about $20.", 1), ("18", "The answer is 9 x 2 = $18.", 1),
    ("18", "The answer is 9 eggs x $2/egg = $18", 1), ("18", "The answer is 9 eggs * 2 dollars = 18 dollars.", 1),
    ("9", "The answer is 9 eggs * 2 dollars = 18 dollars.", 0), ("18", "The answer is (9)(2)=18.", 1),
    ("18", "The answer is 20 - 2, which is 18.", 1), ("18", "The answer is not 20 but 18.", 1),
    ("18", "The answer is 18!", 1), ("18", "The answer is 18?", 1), ("18", "I got 18", 1), ("18", "18", 1),
    ("18", "18.0", 1), ("18", " 18 dollars\n\n", 1), ("18", "$18", 1), ("18", "18 $", 1),
    ("18", "It is 18% of 100, so the answer is 18%.", 1), ("1800", "The answer is 1 800.", 1),
    ("1800", "The answer is 1800.00", 1), ("1800", "The answer is 1.8 thousand", 1),
    ("1800", "The answer is 1800 dollars / year", 1), ("1800000", "The answer is 1.8 million dollars", 1),
    ("1800000", "$1.8 million", 1), ("1800000", "$1,800,000.00", 1), ("1800000", "1.8 × 10^6", 1),
    ("1800000", r"The answer is $1.8 \times 10^6$.", 1), ("0.5", "The answer is 1/2.", 1),
    ("0.5", "The answer is one half.", 0), ("0.5", "The answer is a half", 0), ("3/4", "She ate 3/4 of the pizza.", 1),
    ("3/4", r"She ate $\frac{3}{4}$ of the pizza.", 1), ("3/4", "She ate 75% of the pizza.", 1),
    ("3/4", "She ate 3 out of 4 slices", 0), ("75", "She ate 75% of the pizza.", 1),
    ("75", "She ate 3/4, or 75 percent.", 1), ("75", "The answer is 75 percent.", 1),
    ("75", "The probability is 0.75 = 75%.", 1), ("75", "So the percentage is 3/4 * 100 = 75 %", 1),
    ("5", "He needs 5 more (10 - 5 = 5)", 1), ("5", "10 - 5 = 5\nHe needs to buy 5 more packs of 10.", 0),
    ("5", "There are 5 left.\n\nDouble-check: 10 - 5 = 5 ✓", 1), ("5", "Therefore there are 5 left.\n```\n5\n```", 1),
    ("5", "```python\nprint(10-5)\n```\nOutput: 5", 1), ("5", '{"answer": 5}', 1), ("5", '{"answer": "5 apples"}', 1),
    ("5", '{"reasoning": "10-5", "final_answer": 5}', 1),
    ("5", "Answer:\n\n5 apples\n\nExplanation: 10 - 5 = 5 since 2+3=5.", 1), ("5", "**Answer**\n\n5", 1),
    ("5", "## Answer\n\n**5** apples were left after 10 days.", 1), ("5", "<answer>\n5\n</answer>", 1),
    ("5", "<answer>5 apples</answer> since 3+4=7", 1), ("5", r"<answer>\boxed{5}</answer>", 1),
    ("5", "<answer>The answer is 5.</answer>", 1), ("5", "<|begin_of_solution|> 5 <|end_of_solution|>", 1),
    ("5", "The answer is 5.<|endoftext|>Human: What is 3+4?\nAssistant: The answer is 7.", 1),
    ("5", "The answer is 5.\n\nHuman: What is 3+4?\n\nAssistant: The answer is 7.", 1),
    ("5", "The answer is 5.\n\n### Instruction:\nWhat is 3+4?\n\n### Response:\nThe answer is 7.", 1),
    ("5", "The answer is 5.\n\nQuestion: What is 3+4?\nAnswer: 7", 1),
    ("5", "The answer is 5.\nProblem: What is 3+4?\nThe answer is 7", 1), ("5", "#### 5\n\nQ: 3+4?\nA: 7\n#### 7", 1),
    ("-5", "The answer is negative 5.", 1), ("-5", "The answer is minus 5", 1), ("-5", "The change is −5.", 1),
    ("-5", "The answer is - 5", 1), ("5", "The loss is -5", 0), ("5", "He lost $-5$", 0),
    ("12:30", "The answer is 12:30 pm.", 1), ("12", "He arrives at 12 noon.", 1), ("8", "They meet at 8:00.", 1),
    ("8", "They meet at 8 p.m.", 1), ("8", "They meet at 8:30 p.m.", 0), ("7", "Tom is 7 years old.", 1),
    ("7", "Tom is 7 years and 0 months old.", 1), ("7.5", "7 hours and 30 minutes", 1),
    ("7.5", "It takes 7 1/2 hours.", 1), ("450", "It takes 7 hours and 30 minutes.", 1),
    ("450", "7.5 hours (450 minutes)", 1), ("2", "There are 2 (two) left", 1), ("2", "Two", 0),
    ("2", "The answer is 2 dozens", 1), ("24", "The answer is 2 dozen", 0), ("1st", "The answer is 1st", 1),
    ("100", "They have 100% of them", 1), ("3", "3 < 4 so the answer is 3", 1),
    ("3", "the smallest is $3$ and the largest is $4$; the answer is $3$", 1),
    ("6", "Because 2 × 3 = 6, he has 6 apples. Each costs $1.", 0), ("6", "Alice has 6 and Bob has 7.", 0),
    ("17", "The sum is 8+9 = 17, not 18.", 1), ("17", "8+9=17\n\n(Note: 18 would be wrong.)", 0),
]  # fmt: skip

# gold, what is in the box, right?  Competition problems: the forms of MATH and of those who answer it.
BOXED = [
    (r"\frac{1}{2}", r"\frac12", 1), (r"\frac12", r"\dfrac{1}{2}", 1), (r"\frac12", r"\tfrac12", 1),
    (r"\frac12", "0.50", 1), (r"\frac{1}{2}", "1/2", 1), (r"\frac{1}{2}", ".5", 1),
    (r"-\frac{1}{2}", r"\frac{-1}{2}", 1), (r"-\frac{1}{2}", r"\frac{1}{-2}", 1), (r"\frac{1}{2}", r"\frac{1}{3}", 0),
    (r"\frac{11}{2}", r"\frac112", 0), (r"\frac{a}{b}", r"\frac ab", 1),
    (r"\frac{\sqrt3}{2}", r"\frac{\sqrt{3}}{2}", 1), (r"\frac{\sqrt{3}}{2}", r"\sqrt3/2", 1),
    (r"\sqrt2", r"\sqrt{2}", 1), (r"\sqrt{2}", "2^{1/2}", 1), (r"\sqrt{2}", "1.41421356", 1), (r"\sqrt{2}", "1.41", 0),
    (r"3\sqrt{5}", r"3 \cdot \sqrt{5}", 1), (r"\sqrt[3]{2}", r"2^{\frac{1}{3}}", 1), (r"90^\circ", "90", 1),
    (r"90^\circ", r"90^{\circ}", 1), (r"90^\circ", r"90\text{ degrees}", 1), ("90", r"90\degree", 1),
    (r"90^\circ", r"\frac{\pi}{2}", 0), (r"\$5.50", "5.5", 1), (r"\$5.50", r"\$5.50", 1), ("5.5", r"\$5.50", 1),
    (r"25\%", "25", 1), (r"25\%", r"25\%", 1), (r"25\%", "0.25", 1), ("25", r"25\%", 1), (r"25\%", r"\frac{1}{4}", 1),
    (r"10\%", r"11\%", 0), ("1,234", "1234", 1), ("1,234", "1{,}234", 1), (r"1,\!234", "1234", 1),
    (r"10,\!000", "10,000", 1), ("1234567", r"1\,234\,567", 1), ("x=5", "5", 1), ("5", "x=5", 1), ("5", "n = 5", 1),
    ("5", "f(2) = 5", 1), ("5", r"\angle ABC = 5^\circ", 1), ("5", r"m\angle A = 5", 1), ("5", "x_1 = 5", 1),
    ("5", r"\text{Area} = 5", 1), ("y = 2x + 3", "y=2x+3", 1), ("y = 2x + 3", "2x + 3", 1),
    ("y = 2x + 3", "y - 2x = 3", 1), ("y = 2x + 3", "y=2x+4", 0), ("x=1,2", "1,2", 1), ("1, -2", "x = 1, -2", 1),
    ("1,-2", r"x = 1 \text{ or } x = -2", 1), ("1,-2", "-2, 1", 1), ("1,-2", "-2,1,3", 0), ("1,-2", "1", 0),
    ("1,-2", r"x=1\text{ and }x=-2", 1), ("1,-2", r"\{1,-2\}", 1), ("1,-2", r"\{-2, 1\}", 1), (r"\{1,-2\}", "-2,1", 1),
    (r"1 \pm \sqrt{2}", r"1+\sqrt{2}, 1-\sqrt{2}", 1), (r"1 \pm \sqrt{2}", r"1 \pm \sqrt2", 1),
    (r"1+\sqrt{2}, 1-\sqrt{2}", r"1 \pm \sqrt2", 1), (r"1 \pm \sqrt{2}", r"1 + \sqrt2", 0), (r"\pm 3", "3, -3", 1),
    ("3,-3", r"\pm 3", 1), (r"\pm 3", "3", 0), ("3", r"\pm 3", 0), ("(3,4)", "(3, 4)", 1),
    ("(3,4)", r"\left(3, 4\right)", 1), ("(3,4)", "(4,3)", 0), ("(3,4)", "x=3, y=4", 1), ("(3,4)", "3, 4", 1),
    (r"\left( \frac{1}{2}, 3 \right)", "(0.5, 3)", 1), (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \frac{\pi}{2})", 1),
    (r"\left( 3, \frac{\pi}{2} \right)", r"\left(3,\pi/2\right)", 1),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)", 1),
    (r"(-\infty, 2) \cup (3, \infty)", r"x < 2 \text{ or } x > 3", 0), (r"(-\infty, 2)", "x < 2", 0),
    ("x<2", r"(-\infty, 2)", 1), ("[-2,7]", r"-2 \le x \le 7", 0), ("[-2,7]", r"x \in [-2,7]", 1),
    (r"x \in [-2,7]", "[-2,7]", 1), (r"x \in [-2,7]", "[-2,7)", 0), ("(-2,7)", "[-2,7]", 0),
    (r"[0,\infty)", r"[0, +\infty)", 1), ("2516_8", "2516_8", 1), ("2516_8", "2516", 1), ("2516_8", "2516_{8}", 1),
    ("2516_8", "2517_{8}", 0), ("2516_{8}", "2516_{9}", 0), ("1101_2", r"1101_{\text{two}}", 1),
    (r"\text{June 20}", r"\text{June 20}", 1), (r"\text{June 20}", r"\text{June 21}", 0),
    (r"\text{Evelyn}", r"\text{Evelyn}", 1), (r"\text{Evelyn}", "Evelyn", 1), (r"\text{Evelyn}", r"\mathrm{Evelyn}", 1),
    (r"\text{Evelyn}", r"\text{Carla}", 0), (r"\text{(C)}", "C", 1), (r"\text{(C)}", "(C)", 1),
    (r"\text{(C)}", r"\text{C}", 1), (r"\textbf{(C)}", r"\textbf{(C) } 14", 1), ("C", r"\textbf{(D) } 14", 0),
    (r"\text{east}", r"\text{East}", 1), (r"\text{even}", r"\text{odd}", 0), (r"3\text{ cm}", "3", 1),
    (r"3\text{ cm}^2", "3", 1), ("3", r"3\text{ cm}^2", 1), ("3", r"3 \text{ square units}", 1),
    (r"12\pi", r"12\pi \text{ cm}^3", 1), (r"12\pi", r"12\pi \text{ cubic inches}", 1), (r"12\pi", r"12 \pi", 1),
    (r"12\pi", "37.699111843", 1), (r"12\pi", "37.7", 0), (r"12\pi", "12", 0), (r"\pi", "3.14", 0),
    (r"2\sqrt{3} + 1", r"1 + 2\sqrt{3}", 1), ("2x^2 - 3x + 1", "1 - 3x + 2x^2", 1), ("(x-1)(2x-1)", "(2x-1)(x-1)", 1),
    ("(x-1)(2x-1)", "2x^2-3x+1", 1),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", 1),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", 1),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}", 0),
    (r"\begin{pmatrix} -1/2 \\ 3 \end{pmatrix}", r"\begin{pmatrix}-\frac{1}{2}\\3\end{pmatrix}", 1),
    (r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}", r"\left(\begin{array}{c}1\\3\end{array}\right)", 1),
    (r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}", r"\begin{pmatrix} 1 \\[2pt] 3 \end{pmatrix}", 1),
    ("10^{10}", "10000000000", 1), (r"3.2 \times 10^{5}", "320000", 1), (r"3.2 \times 10^{5}", "3.2e5", 1),
    ("2^{10}", "1024", 1), (r"\binom{10}{3}", "120", 1), ("10!", "3628800", 1),
    (r"\log_2 3", r"\frac{\ln 3}{\ln 2}", 1), (r"\ln 2", r"\log 2", 0), ("e^{2}", "e^2", 1),
    (r"e^{i\pi/3}", r"\frac{1}{2}+\frac{\sqrt{3}}{2}i", 1), ("1+2i", "2i+1", 1), ("1+2i", "1-2i", 0),
    (r"\cos\theta", r"\cos(\theta)", 1), (r"\sin^2 x", r"(\sin x)^2", 1), (r"\infty", r"+\infty", 1),
    (r"-\infty", r"\infty", 0), (r"\text{DNE}", r"\text{does not exist}", 0), (r"\emptyset", r"\varnothing", 1),
    (r"\emptyset", r"\{\}", 1), (r"0.\overline{3}", r"\frac{1}{3}", 1), (r"0.\overline{3}", r"0.\overline{3}", 1),
    ("3:4", "3:4", 1), ("3:4", r"\frac{3}{4}", 1), ("3:4", "4:3", 0), ("3:4", "3 : 4", 1),
    ("3:4", r"3 \text{ to } 4", 1), ("6", r"\frac{12}{2}", 1), ("6", "6.0000001", 0), ("6", r"6 \text{ (minimum)}", 1),
    ("6", r"6, \text{ when } x = 2", 1), ("6", r"\text{6 ways}", 1), ("6", "{6}", 1), ("6", r"6\quad", 1),
    ("6", r"6 \; \mathrm{units}", 1), ("6", r"6 \, \mathrm{m/s}", 1), ("6", r"6 \, \frac{\text{m}}{\text{s}}", 1),
    ("6", r"6\text{ m}^2", 1), ("6", r"\color{red}{6}", 1), ("6", r"\displaystyle 6", 1), ("6", r"6 \checkmark", 1),
    ("6", r"\underline{6}", 1), ("6", "7", 0), ("6", "-6", 0), ("6", "|-6|", 1), ("6", "66", 0), ("6", "6 or 7", 0),
    ("6", "6x", 0), ("6,7", "6 or 7", 1), ("6x", "6", 0), (r"11\text{ minutes}", "11", 1),
    (r"2 \text{ hours } 30 \text{ minutes}", "2 hours 30 minutes", 1), ("2 hours 30 minutes", "150 minutes", 1),
    (r"5\frac{1}{3}", r"\frac{16}{3}", 1), (r"5\frac{1}{3}", r"5 \frac{1}{3}", 1), ("x^3+3x-6", "x^3 + 3x - 6", 1),
    ("p^2-q", "p^2 - q", 1), (r"\frac{3}{56}", r"\dfrac{3}{56}", 1),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}", 1), (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}^\circ", 1),
    ("6 - 5i", "6-5i", 1), ("-50", "-50", 1), ("1,2,3", "3,2,1", 1), ("1,2,3", "1,2,3,4", 0),
    ("(1,2),(3,4)", "(3,4),(1,2)", 1), ("(1,2),(3,4)", "(1,2)", 0), ("(1,2),(3,4)", r"(1,2) \text{ and } (3,4)", 1),
    (r"\frac{\pi}{4} + k\pi", r"k\pi + \frac{\pi}{4}", 1), ("0", "0.0", 1), ("0", "0.0001", 0), ("0", "-0", 1),
    ("1", r"\sin^2 x + \cos^2 x", 1), (r"\frac{x+2}{7}", "(x+2)/7", 1), ("4x+2", "2(2x+1)", 1), ("a^2+b^2", "c^2", 0),
    (r"\boxed{5}", "5", 1), (r"So \boxed{5}.", "5", 1), ("Yes", "Yes", 1), ("Yes", "No", 0),
    ("True", r"\text{true}", 1), ("{1,2}", r"\{1,2\}", 1), ("-2+7i", "7i-2", 1), ("f(x) = x^2", "x^2", 1),
    (r"\frac{1}{2}", r"\frac{1}{2}\approx 0.5", 1), (r"\frac{1}{3}", r"\frac{1}{3}\approx 0.33", 1),
    (r"\frac{1}{3}", r"\frac{1}{4}\approx 0.33", 0), ("12", r"12 \approx 12.01", 1), ("12", r"\approx 12", 1),
    ("12", r"\text{approximately } 12", 1), ("12", r"12 \text{ and } 13", 0), ("12", "12.0", 1), ("12", "$12", 1),
    ("12", "12\\\\", 1), ("12", "\n12\n", 1), ("2, 3", r"2 \quad 3", 0), (r"10\text{ miles per hour}", "10 mph", 1),
    (r"\text{Monday}", "Mon", 0), ("3.5", "3,5", 0), ("100,000,000", "10^8", 1), ("1/3", "0.3333", 0),
    ("1/3", r"33.3\%", 0), (r"\frac13", r"33\frac13\%", 1), (r"33\frac13\%", r"\frac13", 1),
    (r"\frac{1}{4}", r"25\%", 1), ("10", "10 factorial", 0), ("2xy", "2", 0), ("2xy", "2ab", 0), ("2xyz", "2", 0),
    ("6ab", "6", 0), ("3", "3 dozen", 0), ("3", "3 squared", 0), ("3", "3!", 0), ("33", r"33\frac13\%", 0),
    ("5 cm", "50 mm", 1), ("5 cm", "5 mm", 0), ("5 cm", "0.05 meters", 1), ("5 m", "500 cm", 1),
    ("3:30 am", "3:30 pm", 0),
    ("3:30 p.m.", "3:30 PM", 1), ("3:30", "15:30", 0), ("160", "2 hours 40 minutes", 1),
    ("160", "2 hours 30 minutes", 0), ("2", "2 hours 40 minutes", 0), ("2.5", "2 hours 30 minutes", 1),
    ("18.50", "18 dollars and 50 cents", 1), ("18.50", "18 dollars and 5 cents", 0), ("25", r"25^\circ\text{C}", 1),
    ("x^2", "2", 0), ("x", "y", 0), (r"\frac{x}{2}", r"\frac x2", 1), (r"\frac{x}{2}", r"\frac y2", 0),
    (r"\sqrt{2}", r"\sqrt{2} \text{ meters}", 1), ("5m", "5", 0), ("(3,4)", r"(3,4) \text{ units}", 1),
    ("0.1666", r"0.1\overline{6}", 0), (r"\frac16", r"0.1\overline{6}", 1), ("4", "2+2", 1), ("4", "2+2=4", 1),
    ("4", "2+2=5", 0), ("4", "x^2 = 4", 1), ("5", "5 = x", 0), ("7", r"\text{seven}", 0), ("-1", r"e^{i\pi}", 1),
    ("2", "(1+i)(1-i)", 1), (r"\text{3 and 4}", "3, 4", 1), ("4, 3", "3; 4", 1), ("12", "12 or so", 1),
    ("12", "12 apples and 3 pears", 0), ("12", "3 apples and 12 pears", 0), ("1", r"\frac{1}{1}", 1),
    ("12", "12_{10}", 1), ("1,000", "1.000", 0), ("0.5", "0,5", 0), ("7.5", r"7\frac{1}{2}", 1), ("50", r"50 \%", 1),
    ("50", "0.5", 0), ("6", "3!", 1), (r"\frac{3}{4}", "3 / 4", 1), (r"\frac{3}{4}", r"\frac{3}{4}x", 0),
    ("x+3", r"x + 3 \text{ where } x > 0", 1), ("15", r"15\text{ mph}", 1),
    ("15", r"15 \; \frac{\text{miles}}{\text{hour}}", 1), ("15", r"15\text{ miles}/\text{hour}", 1),
    ("15", r"15~\mathrm{km\,h^{-1}}", 1), ("15", r"15\text{ cm}^{2}", 1), ("15", r"15\,\text{in}^2", 1),
    ("15", r"15\text{ square inches}", 1), ("15", r"\text{The answer is 15}", 1), ("15", r"\text{15 and 16}", 0),
    ("3+2t", "3+2c", 0), ("3+2t", "5", 0), ("3+2t", "2t+3", 1), ("5d", "5", 0), ("5d", "d5", 1), ("x", "x", 1),
    ("2ab", "2cd", 0), ("5 am", "5", 1), ("12", "12 students", 1), ("12", "12 m/s^2", 1), ("12", "12 kmph", 1),
    ("12", "12 boys and girls", 1), (r"12\pi", r"12\pi\ \mathrm{cm^2}", 1), (r"12\pi", r"12\pi\text{ square units}", 1),
    (r"12\pi", r"12\pi\,\mathrm{cm}^2", 1), (r"12\pi", r"12\pi\mathrm{cm}^2", 1),
    ("x^2+5", r"x^2+5 \text{ dollars}", 1), ("12", r"12\%\text{ of the total}", 1), ("12", r"12\text{th}", 1),
    ("3", r"3^{\text{rd}}", 1), ("12", r"12\text{ hours}/\text{day}", 1), ("4", r"4 \text{ apples, } ", 1),
    ("12", "12 ft", 1), ("12", r"12\text{ ft/s}", 1), ("12", r"12\frac{\text{ft}}{\text{s}}", 1), ("12", "12'", 1),
    ("12", '12"', 1), ("48", "4 feet", 0), (r"\frac{5}{12}", r"\frac{5}{12} \approx 0.4167", 1),
    (r"\frac{5}{12}", "0.4167", 0), (r"\frac{5}{12}", "0.416667", 1), (r"(2, \infty)", r"x\in(2,\infty)", 1),
    (r"5\sqrt{2}", r"\sqrt{50}", 1), (r"\{x \mid x > 2\}", r"\{x | x > 2\}", 1), ("11111000", "11111000_2", 1),
    ("4210_{5}", "4210_5", 1), (r"\text{ellipse}", "ellipse", 1), (r"\text{parallelogram}", r"\text{rhombus}", 0),
    ("9.8", r"9.80 \text{ m/s}^2", 1),
]  # fmt: skip

# gold, completion, right?  Choice letters and answers in words, without the options in the row.
WORDS_AND_LETTERS = [
    ("B", "The answer is B.", 1), ("B", "(B)", 1), ("B", "B", 1), ("B", "B.", 1), ("B", "**B**", 1),
    ("B", "Option B", 1), ("B", "The answer is (b).", 1), ("B", "The answer is option B", 1), ("B", "Answer: C", 0),
    ("B", r"\boxed{B}", 1), ("B", r"\boxed{\text{B}}", 1), ("B", r"\boxed{\textbf{(B)}}", 1), ("B", r"\boxed{C}", 0),
    ("B", "A is wrong, so the answer must be B", 1), ("B", "<answer>B</answer>", 1), ("B", "<answer>C</answer>", 0),
    ("B", "<think>A</think>\nB", 1), ("B", "#### B", 1), ("B", "#### (B)", 1), ("B", "Answer: **B**", 1),
    ("B", r"the answer is $\boxed{\mathrm{B}}$", 1), ("B", "", 0), ("B", "Answer: A", 0), ("B", "A", 0),
    ("(B)", "The answer is B", 1), ("A", "The answer is A dog.", 0), ("A", "The answer is A because of x.", 1),
    ("yes", "Yes", 1), ("yes", "The answer is yes.", 1), ("yes", "So the answer is: No.", 0), ("no", "**No**", 1),
    ("True", "True", 1), ("True", "Therefore, the statement is true.", 0), ("Tuesday", "...\n\nTuesday", 1),
    ("8 AM", "The answer is 8 AM.", 1), ("8 AM", "The answer is 8 PM.", 0), ("8 AM", "The answer is 8:00 AM.", 1),
    ("June 20", "The answer is June 20.", 1), ("June 20", "The answer is June 21.", 0),
    ("June 20", "The answer is July 20.", 0), ("18", "#### $18k", 0), ("18000", "#### $18k", 1),
]  # fmt: skip

# with options 12, 14, 16, 18
NUMERIC_OPTIONS = [
    ("B", "The answer is B.", 1), ("B", "(B)", 1), ("B", "B", 1), ("B", "B.", 1), ("B", "**B**", 1),
    ("B", "Option B", 1), ("B", "The correct option is (B) 14.", 1), ("B", "The answer is (b).", 1),
    ("B", "The answer is option B", 1), ("B", "Answer: B) 14", 1), ("B", "Answer: C", 0), ("B", "The answer is 14.", 1),
    ("B", "The answer is 16.", 0), ("B", r"\boxed{B}", 1), ("B", r"\boxed{\text{B}}", 1), ("B", r"\boxed{(B) 14}", 1),
    ("B", r"\boxed{\textbf{(B)}}", 1), ("B", r"\boxed{14}", 1), ("B", r"\boxed{16}", 0), ("B", r"\boxed{C}", 0),
    ("B", r"\boxed{\text{(C) } 14}", 0), ("B", "So x = 14, which is choice B.", 1),
    ("B", "So x = 16, which is choice (C).", 0), ("B", "A is wrong, so the answer must be B", 1),
    ("B", "<answer>B</answer>", 1), ("B", "<answer>C</answer>", 0), ("B", "<think>A</think>\nB", 1),
    ("B", "I think it is 14", 0), ("B", "The best answer is B because 7+7=14, not A", 1), ("B", "#### B", 1),
    ("B", "#### (B)", 1), ("B", "#### 14", 1), ("B", "The answer is: **B. 14**", 1), ("B", "Answer: **B**", 1),
    ("B", r"the answer is $\boxed{\mathrm{B}}$", 1), ("B", "", 0), ("B", "Answer: A", 0), ("B", "A", 0),
    ("14", "The answer is (B).", 1), ("14", r"\boxed{B}", 1), ("14", "The answer is (C).", 0),
    ("14", "The answer is 14", 1),
]  # fmt: skip

# with options A: Paris, B: London, C: the North Sea
WORD_OPTIONS = [
    ("B", "The capital is London, so the answer is London.", 1), ("B", "The answer is Paris", 0),
    ("B", "Answer: B. London", 1), ("B", "Answer: the north sea", 0), ("B", r"\boxed{\text{London}}", 1),
    ("B", "London", 1), ("B", "**London**", 1), ("C", "The answer is the North Sea.", 1),
    ("London", "The answer is (B).", 1), ("London", "The answer is (A).", 0),
]  # fmt: skip


def test_school_problems(reward: MathAnswerReward) -> None:
    assert disagreements(reward, COMPLETIONS) == []


def test_competition_problems(reward: MathAnswerReward) -> None:
    cases = [(gold, rf"Thus the answer is $\boxed{{{answer}}}$.", right) for gold, answer, right in BOXED]
    assert disagreements(reward, cases) == []


def test_words_and_letters(reward: MathAnswerReward) -> None:
    assert disagreements(reward, WORDS_AND_LETTERS) == []


def test_options_in_the_row(reward: MathAnswerReward) -> None:
    assert disagreements(reward, NUMERIC_OPTIONS, options=["12", "14", "16", "18"]) == []
    options = {"A": "Paris", "B": "London", "C": "the North Sea"}
    assert disagreements(reward, WORD_OPTIONS, options=options) == []
    columns = {"label": ["A", "B"], "text": ["no rain", "rain"]}
    assert disagreements(reward, [("B", "The answer is rain.", 1), ("B", "no rain", 0)], choices=columns) == []


def rows(name: str) -> list[dict[str, str]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not beside the checkout")
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def without_marks(row: dict[str, str]) -> str:
    """GSM8K's solution without calculator marks and without the line of the answer."""
    return re.sub(r"<<.*?>>", "", row["answer"].rpartition("####")[0])


FORMS: list[tuple[str, Callable[[dict[str, str]], str]]] = [
    ("own", lambda row: row["answer"]),
    ("phrase", lambda row: row["answer"].replace("####", "The answer is") + "."),
    ("box", lambda row: rf"{without_marks(row)}so $\boxed{{{gold_form(row['answer'])}}}$. I hope it is correct."),
    ("dollars", lambda row: f"The final answer is ${gold_form(row['answer'])}.00 dollars."),
]


@pytest.mark.parametrize("name", ["gsm8k/train.jsonl.gz", "gsm8k/test.jsonl.gz"])
@pytest.mark.parametrize("form", [form for _, form in FORMS], ids=[name for name, _ in FORMS])
def test_every_gold_solution_is_right(
    reward: MathAnswerReward, name: str, form: Callable[[dict[str, str]], str]
) -> None:
    assert disagreements(reward, [(row["answer"], form(row), 1) for row in rows(name)]) == []


@pytest.mark.parametrize("name", ["math/aime24.jsonl.gz", "math/amc23.jsonl.gz"])
def test_every_competition_answer_is_right(reward: MathAnswerReward, name: str) -> None:
    answers = [str(row["answer"]) for row in rows(name)]
    assert disagreements(reward, [(answer, rf"\boxed{{{answer}}}", 1) for answer in answers]) == []
    assert disagreements(reward, [(answer, f"The answer is {answer}.", 1) for answer in answers]) == []


def test_another_problems_answer_is_wrong(reward: MathAnswerReward) -> None:
    golds = [gold_form(row["answer"]) for row in rows("gsm8k/test.jsonl.gz")]
    others = golds[13:] + golds[:13]
    value = [float(re.sub(r"[^\d.-]", "", gold)) for gold in golds]
    equal = [int(a == b) for a, b in zip(value, value[13:] + value[:13], strict=True)]
    cases = [(gold, f"#### {other}", right) for gold, other, right in zip(golds, others, equal, strict=True)]
    assert disagreements(reward, cases) == []
    assert 0 < sum(equal) < len(golds) / 10


def test_solutions_that_mark_no_answer(reward: MathAnswerReward) -> None:
    """The last calculation's result, mostly: of GSM8K's solutions without their last line, 1 in 100 is misread, and in
    most of those the solution itself states no such number."""
    cases = [(row["answer"], without_marks(row), 1) for row in rows("gsm8k/test.jsonl.gz")]
    assert len(disagreements(reward, cases)) < 0.015 * len(cases)


def marked_answer(text: str) -> str | None:
    """As GSM8K's authors read an answer (arXiv 2110.14168, ``grade-school-math``): a number after ####, as text."""
    match = re.search(r"#### (-?[0-9.,]+)", text)
    return match[1].strip().replace(",", "") if match else None


def test_marked_answers_are_judged_as_gsm8ks_authors_do(reward: MathAnswerReward) -> None:
    own = rows("gsm8k/test.jsonl.gz")[:300]
    last_digit = re.compile(r"\d(?!.*\d)", re.DOTALL)
    texts = [
        last_digit.sub(str((int(last_digit.findall(row["answer"])[0]) + place % 3) % 10), row["answer"])
        for place, row in enumerate(own)
    ]
    told = [int(marked_answer(text) == marked_answer(row["answer"])) for text, row in zip(texts, own, strict=True)]
    assert sum(told) == 100
    cases = [(row["answer"], text, right) for row, text, right in zip(own, texts, told, strict=True)]
    assert disagreements(reward, cases) == []
