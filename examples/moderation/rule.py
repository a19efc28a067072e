"""Makes this folder's rows: `python -m examples.moderation.rule`.

Written for this purpose, each sentence with the one label that it has: nobody said any of it to anybody. What is not safe is
in mild words; it shows the form, and a classifier for real use wants rows of real life. What is safe are mails of
support_mails, and sentences in which the words of the others mean no harm.
"""

from __future__ import annotations

import json
from pathlib import Path

from examples import tickets

FOLDER = Path(__file__).parent
NUM_MAILS = {"train": 60, "validation": 18}
MAILS = {"train": "train", "validation": "holdout"}
"""File -> the file of support_mails that its safe mails are from."""
NUM_TO_VALIDATE = 3
"""Of each label's sentences the last ones, which nothing is learnt from."""
OPENINGS = {"train": ("", "Listen. ", "I tell you: "), "validation": ("", "One more thing. ")}

SENTENCES: dict[str, tuple[str, ...]] = {
    "safe": (
        "This heat is killing me, does the fan ship today?",
        "I could murder a cup of tea, but the kettle is broken.",
        "The blender is a beast and crushes ice like nothing.",
        "Please shoot me a mail when the toaster is back.",
        "My sister hates the colour; can I change it?",
        "The new grinder beats the old one by far.",
        "We had a blast with the popcorn machine.",
        "How do I kill a process that hangs on the printer?",
        "Can you attack this problem from another side?",
        "The instructions are stupidly long, but they work.",
        "I am dying to see the new catalogue.",
        "That price is a crime, but I take it.",
        "Drop the bomb: how late is my order?",
    ),
    "harassment": (
        "You are a worthless idiot and everybody here laughs at you.",
        "Nobody likes you, you ugly fool.",
        "What a pathetic loser you are, go cry to your mother.",
        "Your work is rubbish because you are too dumb to think.",
        "I have never met anybody as stupid and useless as you.",
        "Shut your mouth, clown, no one wants to hear you.",
        "You are a disgusting liar and a failure in all you do.",
        "Even a stone is smarter than you, you moron.",
        "Crawl back into your hole, you miserable nobody.",
        "You are the dumbest creature that ever wrote a mail.",
        "Everybody knows that you are a stinking cheat.",
        "Look at yourself, you useless lump.",
    ),
    "harassment/threatening": (
        "I know where you live, and I will come tonight.",
        "If you call again, I will break your fingers.",
        "Watch your back, for I will find you and hurt you.",
        "You will regret this when I stand at your door with my brother.",
        "I will make you bleed for that answer.",
        "Tell your boss that I will burn his car with him in it.",
        "One more word, and I will beat you until you cannot walk.",
        "I am waiting outside, and you will not get home in one piece.",
        "Your family will pay for this, I know their names.",
        "I will follow you home and make you suffer.",
        "Next time we meet I will smash your face.",
        "I will get you, and nobody will help you then.",
    ),
    "hate": (
        "People of that religion are vermin and should not be let in.",
        "Foreigners are all thieves, throw every one of them out.",
        "Women are too weak in the head to vote.",
        "That race is worth less than ours, that is how it is.",
        "Those who pray like that are animals, not humans.",
        "Immigrants are a disease in our country.",
        "The disabled only cost money and should be hidden away.",
        "Nobody of that skin colour should live in our street.",
        "Gay people are filth and have no place here.",
        "All people from over there are dirty and lie.",
        "Their kind is a plague on the nation.",
        "Old people and cripples are a burden nobody needs.",
    ),
    "self-harm": (
        "I do not want to live any more.",
        "Everybody would be better off if I were dead.",
        "I have started to cut my arms again.",
        "Tonight I will take all the pills and be gone.",
        "I think about ending my life every day.",
        "I hurt myself because then it is quiet in my head.",
        "There is no point in going on, I want to die.",
        "I have written my farewell letters already.",
        "I stopped eating, so that I disappear at last.",
        "I wish I would not wake up tomorrow.",
        "I want to jump and end it all.",
        "I burn my skin when I feel bad.",
    ),
    "sexual": (
        "Send me pictures of you without clothes.",
        "I want to undress you and have sex with you all night.",
        "Describe to me how the two make love, in every detail.",
        "Tell me what you wear in bed and what you would do to me.",
        "Write a steamy story in which they end up naked.",
        "I get so hot when I think of your body on mine.",
        "Let us talk dirty, tell me where you want to be kissed.",
        "I dream of your naked skin and want to touch it everywhere.",
        "Play my lover and seduce me step by step.",
        "Show me a porn video with two women.",
        "What would you do to me if we were naked?",
        "Moan for me, I want to hear how you come.",
    ),
    "illicit": (
        "Tell me how to copy bank cards without being caught.",
        "Where do I buy stolen accounts, and how do I pay for them?",
        "How do I cook drugs at home to sell them?",
        "Explain how to open a neighbour's lock to rob the flat.",
        "Write a fake invoice with which I can cheat the tax office.",
        "How do I get past the alarm of a shop at night?",
        "Give me a plan to launder the money from the theft.",
        "How can I forge a passport that passes the border?",
        "Help me to break into my colleague's mailbox.",
        "How do I smuggle goods through customs unseen?",
        "Teach me to steal a car without a key.",
        "How do I sell prescription pills on the street?",
    ),
    "violence": (
        "They dragged the prisoners out and shot them one by one.",
        "He stabbed the man until he moved no more.",
        "The crowd beat the thief to death with stones.",
        "Blow up the bridge while the train is on it.",
        "Soldiers burned the village with everybody in it.",
        "She poisoned the whole family at dinner.",
        "Kill all who stand in the way of our cause.",
        "The bomb tore the people in the market apart.",
        "He hit the dog with the bar until it died.",
        "They hanged the traitors in the square.",
        "Cut them down, and leave none alive.",
        "The gang strangled the guard and threw him into the river.",
    ),
}


def rows(split: str) -> list[dict[str, str]]:
    """Each label in turn, so that the first rows of a file have all of them."""
    of_labels = [_texts(split, label) for label in SENTENCES]
    found = []
    for place in range(max(map(len, of_labels))):
        for label, texts in zip(SENTENCES, of_labels, strict=True):
            found += [{"text": text, "label": label} for text in texts[place : place + 1]]
    mails = tickets.load(MAILS[split])[: NUM_MAILS[split]]
    # Safe texts are about as many as the others together, and stand among them.
    every = max(len(found) // len(mails), 1)
    for number, example in enumerate(mails):
        found.insert(number * (every + 1), {"text": example.mail, "label": "safe"})
    return found


def text(split: str) -> str:
    """What the file holds."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(split))


def _texts(split: str, label: str) -> list[str]:
    sentences = SENTENCES[label]
    kept = sentences[-NUM_TO_VALIDATE:] if split == "validation" else sentences[:-NUM_TO_VALIDATE]
    return [opening + sentence for opening in OPENINGS[split] for sentence in kept]


if __name__ == "__main__":
    for name in MAILS:
        (FOLDER / f"{name}.jsonl").write_text(text(name), encoding="utf-8")
