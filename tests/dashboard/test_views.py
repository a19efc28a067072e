"""Every view as somebody meets it in a browser: nothing on the console, nothing from elsewhere, nothing that axe objects to."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, expect

from storage.jobs import events
from tests.api.stack import Api, Tenant
from tests.dashboard import believable
from tests.dashboard.viewer import Viewer
from tests.dashboard.viewer import viewer as opened

pytestmark = pytest.mark.asyncio(loop_scope="module")

HIDE = """hidden => {
  Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
  document.dispatchEvent(new Event("visibilitychange"));
}"""
"""Tabs of a browser without a screen all say that they are visible."""
VIEWS = {
    "jobs": "Jobs",
    f"jobs/{believable.DONE}": "support mails",
    f"jobs/{believable.FAILED}": believable.HOSTILE,
    "new": "New job",
    "playground": "Playground",
    "models": "Models",
    "files": "Files",
    "system": "System",
}


@pytest.mark.parametrize("path", VIEWS, ids=lambda path: path.replace("/", "-"))
async def test_a_view_is_clean_in_both_themes_and_on_a_phone(viewer: Viewer, path: str) -> None:
    page = viewer.page
    await page.set_viewport_size({"width": 1280, "height": 900})
    await viewer.open(path)
    await expect(page.get_by_role("heading", level=1)).to_have_text(VIEWS[path])
    assert await viewer.violations() == []
    await page.emulate_media(color_scheme="dark")
    await page.set_viewport_size({"width": 360, "height": 780})
    assert await viewer.violations() == []
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    await page.emulate_media(color_scheme="light")
    viewer.check()


async def test_a_job_is_seen_live_and_goes_on_where_it_was(
    viewer: Viewer, api: Api, tenant: Tenant
) -> None:
    page = viewer.page
    await viewer.open(f"jobs/{believable.RUNNING}")
    chart = page.locator("line-chart svg")
    await expect(chart).to_have_attribute("aria-label", re.compile("over 60 points"))
    # Shown as text, whatever it is made of.
    await expect(page.locator("#log li.warn").first).to_contain_text(believable.HOSTILE)
    assert await page.locator("#log img").count() == 0

    def step(number: int) -> None:
        data = {"step": number, "train_loss": 0.5, "total_steps": 120, "num_tokens": 1}
        with api.sessions.begin() as session:
            text = f"Step {number}/120: training loss=0.50"
            events.add(
                session, believable.RUNNING, f"step:{number}", text, type="metrics", data=data
            )

    step(61)
    await expect(chart).to_have_attribute("aria-label", re.compile("over 61 points"))
    await expect(page.locator("#log li").first).to_contain_text("Step 61/120")
    # Another tab is looked at for a while.
    await page.evaluate(HIDE, True)
    step(62)
    await page.evaluate(HIDE, False)
    await expect(chart).to_have_attribute("aria-label", re.compile("over 62 points"))
    await chart.focus()
    await page.keyboard.press("End")
    await expect(page.locator("line-chart output")).to_have_text("step 62: training 0.500")
    viewer.check()


async def test_jobs_are_searched_and_filtered(viewer: Viewer) -> None:
    page = viewer.page
    await viewer.open("jobs")
    await page.keyboard.press("/")
    await page.keyboard.type("more epochs")
    await page.keyboard.press("Enter")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await page.get_by_label("Search").fill("")
    await page.get_by_label("State").select_option("failed")
    await page.get_by_role("button", name="Show").click()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.locator("tbody")).to_contain_text(believable.HOSTILE)
    await viewer.open("jobs?search=nothing-is-called-so")
    await expect(page.locator(".empty")).to_contain_text("No job is like that")
    viewer.check()


async def test_two_tabs_that_do_opposite_things_agree_afterwards(
    viewer: Viewer, api: Api, tenant: Tenant
) -> None:
    page = viewer.page
    await viewer.open(f"jobs/{believable.QUEUED}")
    await page.get_by_role("button", name="Pause").click()
    await expect(page.locator(".now")).to_contain_text("paused")
    # A tab that is looked at would hear of the other one's doing, and offer nothing more.
    await page.evaluate(HIDE, True)
    await page.wait_for_load_state("networkidle")
    with api.http(tenant) as http:
        http.post(f"/v1/fine_tuning/jobs/{believable.QUEUED}/cancel").raise_for_status()
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("alert")).to_contain_text("has already been cancelled")
    viewer.faults.clear()  # the browser tells each 400 on its console
    await viewer.open(f"jobs/{believable.QUEUED}")
    await expect(page.locator(".now")).to_contain_text("cancelled")
    viewer.check()


async def test_what_was_typed_is_kept_where_the_server_refuses_it(viewer: Viewer) -> None:
    page = viewer.page
    await viewer.open("new")
    await page.get_by_label("Epochs").fill("many")
    await page.get_by_label("Name").fill("my-model")
    await page.get_by_role("button", name="Start").click()
    await expect(page.get_by_role("alert")).to_contain_text("n_epochs")
    await expect(page.get_by_label("Epochs")).to_have_value("many")
    await expect(page.get_by_label("Name")).to_have_value("my-model")
    viewer.faults.clear()


async def test_who_is_not_signed_in_comes_back_to_where_they_wanted(
    browser: Browser, api: Api, tenant: Tenant
) -> None:
    async with opened(browser, api, java_script_enabled=False) as stranger:
        page = stranger.page
        await stranger.open("files")
        await expect(page).to_have_url(re.compile("sign-in.next=files"))
        await page.get_by_label("API key").fill("sk-wrong")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_contain_text("Incorrect API key")
        await page.get_by_label("API key").fill(tenant.key)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page).to_have_url(f"{api.url}/dashboard/files")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Files")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page).to_have_url(re.compile("sign-in"))


@pytest.mark.parametrize(
    "bad",
    [
        "<script>1</script>",
        "<p style='color:red'>x</p>",
        "<img src='https://elsewhere.invalid/x.png'>",
    ],
)
async def test_a_bad_page_would_be_noticed(viewer: Viewer, bad: str) -> None:
    """The eyes of all the tests here see what they are to see."""
    page = viewer.page
    served = f"{viewer.url}/dashboard/models"

    async def spoil(route: object) -> None:
        reply = await route.fetch()  # type: ignore[attr-defined]
        body = (await reply.text()).replace("</main>", f"{bad}</main>")
        await route.fulfill(response=reply, body=body)  # type: ignore[attr-defined]

    await page.route(served, spoil)
    await page.goto(served)
    await page.wait_for_load_state("networkidle")
    await page.unroute(served)
    assert viewer.faults
    viewer.faults.clear()
