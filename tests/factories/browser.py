"""A browser without a window, driven by keys and mouse: QtWebEngine, which is Chromium.

Run as a script, since it has its own event loop: browser.py PAGE prints what was seen, as JSON.
"""

import json
import os
import sys

FLAGS = "--no-sandbox --disable-gpu"


def main(file):
    """Moves a slider by keys and by mouse, reads and picks a point, and narrows the window."""
    from PySide6.QtCore import QEventLoop, QPoint, Qt, QTimer, QUrl
    from PySide6.QtTest import QTest
    from PySide6.QtWebEngineWidgets import QWebEngineView
    from PySide6.QtWidgets import QApplication

    QApplication(sys.argv[:1])
    view = QWebEngineView()
    view.resize(1280, 1000)

    def wait(milliseconds=400):
        loop = QEventLoop()
        QTimer.singleShot(milliseconds, loop.quit)
        loop.exec()

    def ask(code):
        answers, loop = [], QEventLoop()
        view.page().runJavaScript(
            f"JSON.stringify({code})", 0, lambda text: (answers.append(text), loop.quit())
        )
        loop.exec()
        return json.loads(answers[0])

    def middle(selector):
        return ask(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2, r.width, r.height])"
            f"([...document.querySelectorAll('{selector}')].at(-1).getBoundingClientRect())"
        )

    def seen():
        return {
            "values": ask("[...document.querySelectorAll('#sliders input')].map(e => e.value)"),
            "card": ask("document.getElementById('one').innerText"),
            "none": ask("!document.getElementById('none').hidden"),
            "keep": ask("!document.getElementById('keep').disabled"),
            "overflow": ask(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            ),
            "chart": middle("#chart .main-svg")[2:],
            "dark": ask("matchMedia('(prefers-color-scheme: dark)').matches"),
            "ground": ask("getComputedStyle(document.body).backgroundColor"),
        }

    loop = QEventLoop()
    view.loadFinished.connect(lambda done: loop.quit())
    path, _, budgets = file.partition("#")
    address = QUrl.fromLocalFile(path)
    address.setFragment(budgets)
    view.load(address)
    view.show()
    loop.exec()
    wait(1000)
    target, left = view.focusProxy(), Qt.MouseButton.LeftButton
    found = {"start": seen()}
    ask("document.querySelector('#sliders input').focus() || true")
    for _ in range(3):
        QTest.keyClick(target, Qt.Key.Key_Left)
    wait()
    found["keys"] = seen()
    x, y, width, _ = middle(f"#{ask('document.activeElement.id')}")
    value, last = ask("(e => [Number(e.value), Number(e.max)])(document.activeElement)")
    QTest.mousePress(target, left, pos=QPoint(int(x + width * (value / last - 0.5)), int(y)))
    for share in (0.8, 0.6, 0.5):
        QTest.mouseMove(target, QPoint(int(x + width * (share - 0.5)), int(y)))
        wait(100)
    QTest.mouseRelease(target, left, pos=QPoint(int(x), int(y)))
    wait()
    found["drag"] = seen()
    point = QPoint(*map(int, middle("#chart .trace:first-child .points path")[:2]))
    QTest.mouseMove(target, point - QPoint(40, 40))
    wait()
    QTest.mouseMove(target, point)
    wait(800)
    found["tooltip"] = ask("document.querySelector('#chart .hovertext').textContent")
    QTest.mouseClick(target, left, pos=point)
    wait()
    found["click"] = seen()
    for width in (390, 1280, 390):
        view.resize(width, 844)
        wait(800)
    found["phone"] = seen()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    os.environ |= {"QT_QPA_PLATFORM": "offscreen", "QTWEBENGINE_DISABLE_SANDBOX": "1"}
    os.environ.setdefault("QTWEBENGINE_CHROMIUM_FLAGS", FLAGS)
    main(os.path.abspath(sys.argv[1]))
