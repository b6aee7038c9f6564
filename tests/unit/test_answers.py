"""What an answer means, and whose it is."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.answer_cases import AnswerCase, read_cases
from worker.errors import Blame, BlockReason, Refused, RetryReason, SinkError, TargetError, Transient
from worker.oss.answers import Answer, error_of, error_of_answer, retry_after
from worker.oss.codes import CODES, REFUSED_STATUSES, About, is_of_the_key
from worker.oss.dialect import CALLS
from worker.words import CODE_CHARACTERS, MESSAGE_CHARACTERS, clean

REQUEST_ID = {"x-oss-request-id": "5F0E1D2C3B4A59687786A5B4"}
PAGE = b"<html><body>Sorry</body></html>"
CASES = read_cases()


def said(code: str, message: str = "m", form: str = "json", **more: str) -> bytes:
    """Return an error in the service's form."""
    fields = {"Code": code, "Message": message, **more}
    if form == "json":
        return json.dumps({"Error": fields}).encode()
    return f"<Error>{''.join(f'<{name}>{value}</{name}>' for name, value in fields.items())}</Error>".encode()


def answered(status: int, code: str, *, form: str = "json", headers: dict[str, str] = REQUEST_ID) -> SinkError:
    """Return what an error in the service's form means."""
    return error_of_answer(Answer(status, headers, said(code, form=form)))


# -- what is accepted


@pytest.mark.parametrize(
    ("operation", "status", "body"),
    [
        ("PutVectors", 200, b""),
        ("PutVectors", 200, b" \r\n"),
        ("PutVectors", 200, b"{}"),
        ("DeleteVectors", 204, b""),
        ("DeleteVectors", 200, b""),
        ("GetVectorIndex", 200, b'{"index": {}}'),
    ],
)
def test_the_services_success_is_accepted(operation: str, status: int, body: bytes) -> None:
    assert error_of(operation, Answer(status, {"X-Oss-Request-Id": "5F0E1D2C3B4A59687786A5B4"}, body)) is None


def test_a_success_without_a_body_is_accepted_whatever_its_encoding_is_called() -> None:
    assert error_of("PutVectors", Answer(200, {**REQUEST_ID, "Content-Encoding": "gzip"}, b"")) is None


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(200, {}, b""), id="no request id"),
        pytest.param(Answer(200, {"x-oss-request-id": ""}, b""), id="empty request id"),
        pytest.param(Answer(200, {"x-oss-request-id": "a page"}, b""), id="no plausible request id"),
        pytest.param(Answer(200, {"x-oss-request-id": "1"}, b""), id="a short request id"),
        pytest.param(Answer(200, REQUEST_ID, PAGE), id="page"),
        pytest.param(Answer(200, REQUEST_ID, said("InternalError")), id="JSON error inside"),
        pytest.param(Answer(200, REQUEST_ID, said("InternalError", form="xml")), id="XML error inside"),
        pytest.param(Answer(200, REQUEST_ID, b'{"Error": null}'), id="odd error inside"),
        pytest.param(
            Answer(200, REQUEST_ID, b'{"error": {"code": "InternalError"}}'), id="error of another form inside"
        ),
        pytest.param(
            Answer(200, REQUEST_ID, b'{"Code": "InternalError", "Message": "m"}'), id="error without its frame"
        ),
        pytest.param(Answer(200, REQUEST_ID, b'{"failedVectors": [{"key": "a"}]}'), id="some failed"),
        pytest.param(Answer(200, REQUEST_ID, b"ok"), id="text"),
        pytest.param(Answer(200, REQUEST_ID, b"[]"), id="list"),
        pytest.param(Answer(200, REQUEST_ID, None), id="too large"),
        pytest.param(Answer(200, {**REQUEST_ID, "Content-Encoding": "gzip"}, b"\x1f\x8b"), id="packed"),
        pytest.param(Answer(200, REQUEST_ID, b"", was_all_sent=False), id="too early"),
        *(pytest.param(Answer(status, REQUEST_ID, b""), id=str(status)) for status in (201, 202, 203, 204, 206, 299)),
    ],
)
def test_another_2xx_is_not_accepted_and_may_have_been_applied(answer: Answer) -> None:
    error = error_of("PutVectors", answer)
    assert isinstance(error, Transient)
    # The service's own may be about some of the records: these are searched for. A stranger's may be as well, in any case.
    blame = Blame.PROXY if REQUEST_ID.items() <= answer.headers.items() else Blame.NONE
    assert (error.unknown_outcome, error.blame, error.status) == (True, blame, answer.status)


@pytest.mark.parametrize("body", [b'{"code": 0}', b'{"code": "200"}', b'{"Code": "OK"}', b'{"Code": "Success"}', b"{}"])
def test_a_code_that_says_that_all_is_well_is_accepted(body: bytes) -> None:
    assert error_of("PutVectors", Answer(200, REQUEST_ID, body)) is None


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "VectorBucketIndexParameterInvalid"),
        (422, "VectorBucketIndexAlreadyExist"),
        (413, "VectorBucketEntityTooLarge"),
    ],
)
def test_a_code_of_a_bucket_about_what_was_put_is_no_block(status: int, code: str) -> None:
    assert not isinstance(answered(status, code), TargetError)


# -- who is blamed


@pytest.mark.parametrize(("status", "code"), [(409, "OperationAborted"), (411, "MissingContentLength"), (425, "")])
def test_what_is_about_one_request_blocks_nothing_under_any_status(status: int, code: str) -> None:
    error = answered(status, code) if code else error_of_answer(Answer(status, REQUEST_ID, b""))
    assert isinstance(error, Transient)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_status_about_credentials_or_the_target_is_believed_whatever_the_code(status: int) -> None:
    assert isinstance(answered(status, "OperationAborted"), TargetError)


@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.parametrize("status", sorted(REFUSED_STATUSES))
@pytest.mark.parametrize("code", sorted(CODES))
def test_a_known_code_means_what_it_is_about(code: str, status: int, form: str) -> None:
    error = answered(status, code, form=form)
    found: tuple[Any, ...]
    match CODES[code]:
        case About.CONTENT:
            found = (type(error),)
            assert found == (Refused,)
        case About.WAY:
            assert isinstance(error, Transient)
            assert (error.kind, error.blame, error.unknown_outcome) == (RetryReason.SERVER, Blame.PROXY, False)
        case About.LIMIT:
            assert isinstance(error, Transient)
            assert (error.kind, error.blame) == (RetryReason.THROTTLED, Blame.NONE)
        case About.CREDENTIALS:
            assert isinstance(error, TargetError)
            assert error.block is BlockReason.CREDENTIALS
        case About.TARGET:
            assert isinstance(error, TargetError)
            assert error.block is BlockReason.TARGET
    assert (error.status, error.code) == (status, code)


@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.parametrize("code", ["InvalidArgument", "MissingArgument", "InvalidParameter", "SomethingNew"])
@pytest.mark.parametrize(
    ("ec", "message", "expected"),
    [
        ("0002-00000063", "Authorization header is invalid.", BlockReason.CREDENTIALS),
        ("0002-00000104", "m", BlockReason.CREDENTIALS),
        ("0002-00000226", "Invalid signing region in Authorization header.", BlockReason.TARGET),
        ("0002-00000227", "Invalid signing product in Authorization header.", BlockReason.TARGET),
        ("0003-00000201", "m", BlockReason.CREDENTIALS),
    ],
)
def test_the_finer_code_of_who_asks_blames_no_record(
    ec: str, message: str, expected: BlockReason, code: str, form: str
) -> None:
    in_body, in_header = said(code, message, form, EC=ec), {**REQUEST_ID, "X-Oss-Ec": ec}
    for answer in (Answer(400, REQUEST_ID, in_body), Answer(400, in_header, said(code, message, form))):
        error = error_of_answer(answer)
        assert isinstance(error, TargetError)
        assert (error.block, error.code) == (expected, code)
        assert error.message == f"{message} (EC {ec})"


@pytest.mark.parametrize("ec", ["0016-00000502", "0400-00000001", "0074-00000001"])
def test_any_other_finer_code_leaves_a_code_about_content_as_it_is(ec: str) -> None:
    """Also where the message quotes a record that speaks of such things."""
    message = "The metadata key Authorization of region a is too long."
    assert isinstance(error_of_answer(Answer(400, REQUEST_ID, said("InvalidArgument", message, EC=ec))), Refused)
    assert isinstance(error_of_answer(Answer(400, REQUEST_ID, said("VectorIndexParameterInvalid", EC=ec))), Refused)


@pytest.mark.parametrize("ec", ["", "EC", "0002", "0002-226", "0002-0000022६"])
@pytest.mark.parametrize(
    "message",
    [
        "Invalid signing region in Authorization header.",
        "Authorization header is invalid.",
        "The Credential is malformed.",
        "The x-oss-security-token is not valid.",
    ],
)
def test_without_a_finer_code_words_about_who_asks_blame_no_record_at_once(message: str, ec: str) -> None:
    """The words may be a record's own: so they do not block either."""
    error = error_of_answer(Answer(400, {**REQUEST_ID, "x-oss-ec": ec}, said("InvalidArgument", message)))
    assert isinstance(error, Transient)
    assert error.blame is Blame.CONTENT


@pytest.mark.parametrize(
    ("status", "code", "expected"), [(403, "AccessDenied", TargetError), (400, "Throttling", Transient)]
)
def test_a_code_that_says_more_counts_before_the_finer_one(status: int, code: str, expected: type[SinkError]) -> None:
    error = error_of_answer(Answer(status, REQUEST_ID, said(code, EC="0002-00000040")))
    assert type(error) is expected
    assert error.message == "m"


@pytest.mark.parametrize("status", sorted(REFUSED_STATUSES))
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("TokenExpired", BlockReason.CREDENTIALS),
        ("InvalidCredential", BlockReason.CREDENTIALS),
        ("InvalidSignature", BlockReason.CREDENTIALS),
        ("RegionMismatch", BlockReason.TARGET),
        ("VectorBucketNotFound", BlockReason.TARGET),
    ],
)
def test_a_code_that_is_new_is_about_what_its_words_say(code: str, expected: BlockReason, status: int) -> None:
    error = answered(status, code)
    assert isinstance(error, TargetError)
    assert error.block is expected


def test_the_words_of_a_new_code_do_not_change_what_a_status_says() -> None:
    error = answered(403, "BucketPolicyDenied")
    assert isinstance(error, TargetError)
    assert error.block is BlockReason.CREDENTIALS
    for status in (400, 403, 503):
        throttled = answered(status, "ThrottlingException")
        assert isinstance(throttled, Transient)
        assert (throttled.kind, throttled.blame) == (RetryReason.THROTTLED, Blame.NONE)


def test_a_request_id_that_a_proxy_has_joined_is_one() -> None:
    twice = "5F0E1D2C3B4A59687786A5B4, 5F0E1D2C3B4A59687786A5B4"
    assert error_of("PutVectors", Answer(200, {"x-oss-request-id": twice}, b"")) is None
    doubtful = Answer(200, {"x-oss-request-id": "5F0E1D2C3B4A59687786A5B4, a page"}, b"")
    assert isinstance(error_of("PutVectors", doubtful), Transient)


@pytest.mark.parametrize(("status", "expected"), [(400, Transient), (422, Transient), (413, Refused)])
def test_an_unknown_code_may_be_about_the_content(status: int, expected: type[SinkError]) -> None:
    error = answered(status, "SomethingNew")
    assert type(error) is expected
    if isinstance(error, Transient):
        assert error.blame is Blame.CONTENT


@pytest.mark.parametrize("status", sorted(REFUSED_STATUSES))
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param({}, b"", id="nothing"),
        pytest.param({}, PAGE, id="page"),
        pytest.param({}, said("VectorIndexParameterInvalid"), id="no request id"),
        pytest.param(REQUEST_ID, PAGE, id="page with a request id"),
        pytest.param(REQUEST_ID, b"", id="request id alone"),
        pytest.param(REQUEST_ID, said("VectorIndexParameterInvalid")[:-3], id="cut short"),
        pytest.param(REQUEST_ID, said(""), id="no code"),
        pytest.param(REQUEST_ID, b'{"Error": {"Code": 400}}', id="code of another type"),
        pytest.param(REQUEST_ID, b'{"error": {"code": "InvalidArgument"}}', id="another service's form"),
        pytest.param(REQUEST_ID, b'{"code": "InvalidArgument"}', id="no Error"),
        pytest.param(REQUEST_ID, b"<Fault><Code>InvalidArgument</Code></Fault>", id="another root"),
        pytest.param(REQUEST_ID, b"<!DOCTYPE Error><Error><Code>InvalidArgument</Code></Error>", id="a DTD"),
        pytest.param(REQUEST_ID, None, id="too large"),
    ],
)
def test_without_the_services_form_no_record_is_blamed(
    status: int, headers: dict[str, str], body: bytes | None
) -> None:
    error = error_of_answer(Answer(status, headers, body))
    assert isinstance(error, Transient)
    assert (error.kind, error.blame, error.unknown_outcome) == (RetryReason.NETWORK, Blame.PROXY, False)


@pytest.mark.parametrize(
    "body",
    [
        said("InvalidArgument", RequestId="5F0E1D2C3B4A59687786A5B4"),
        b"\xef\xbb\xbf" + said("InvalidArgument", RequestId="5F0E1D2C3B4A59687786A5B4"),
        b'<?xml version="1.0"?>\n' + said("InvalidArgument", form="xml", RequestId="5F0E1D2C3B4A59687786A5B4"),
        b'<Error xmlns="http://doc.example"><Code>\nInvalidArgument\n</Code><RequestId>5F0E1D2C3B4A59687786A5B4</RequestId></Error>',
    ],
)
def test_the_request_id_may_stand_in_the_body_of_an_error(body: bytes) -> None:
    error = error_of_answer(Answer(400, {}, body))
    assert isinstance(error, Refused)
    assert (error.code, error.request_id) == ("InvalidArgument", "5F0E1D2C3B4A59687786A5B4")


@pytest.mark.parametrize(("headers", "blame"), [(REQUEST_ID, Blame.CONTENT), ({}, Blame.NONE)])
def test_a_500_may_be_about_the_content_if_the_service_gave_it(headers: dict[str, str], blame: Blame) -> None:
    error = error_of_answer(Answer(500, headers, PAGE))
    assert isinstance(error, Transient)
    assert (error.blame, error.unknown_outcome) == (blame, True)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(("headers", "block"), [(REQUEST_ID, BlockReason.CREDENTIALS), ({}, BlockReason.TARGET)])
def test_a_proxys_denial_says_nothing_of_the_credentials(
    status: int, headers: dict[str, str], block: BlockReason
) -> None:
    error = error_of_answer(Answer(status, headers, PAGE))
    assert isinstance(error, TargetError)
    assert error.block is block


def test_a_redirect_blocks_and_says_where_it_leads_without_what_may_be_secret() -> None:
    error = error_of_answer(Answer(302, {"Location": "https://me:secret@login.example:8443/a?token=secret"}))
    assert isinstance(error, TargetError)
    assert error.block is BlockReason.TARGET
    assert "https://login.example" in error.message
    assert "secret" not in error.message


# -- the cases


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_case_is_the_error_that_leads_to_what_must_come_of_it(case: AnswerCase) -> None:
    if case.is_slow:
        return  # it is nothing of the answer's own
    error = error_of(case.operation, Answer(case.status, case.headers, case.body.encode()))
    assert error is not None
    match case.must.partition(" ")[0].rstrip(":,;"):
        case "retried" | "not" | "asked":
            assert isinstance(error, Transient)
            assert error.blame is not Blame.CONTENT or case.status == 500
        case "blocked" | "one":
            assert isinstance(error, TargetError)
            wanted = BlockReason.TARGET if "target" in case.must else BlockReason.CREDENTIALS
            assert error.block is wanted
        case "refused" | "dead-lettered":
            assert isinstance(error, Refused)
        case "content":
            assert isinstance(error, Transient)
            assert error.blame is Blame.CONTENT
        case other:
            raise AssertionError(other)
    for words, most in ((error.message, MESSAGE_CHARACTERS), (error.code, CODE_CHARACTERS)):
        assert len(words) <= most
        assert words.isprintable()
        words.encode()  # a dead letter's header is UTF-8


# -- Retry-After


DATE = {"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("1.5", 1.5),
        ("2, 2", 2.0),
        ("2,30", 30.0),
        (" 7 ", 7.0),
        ("999999999", 999999999.0),
        ("Mon, 01 Jan 2024 00:01:30 GMT", 90.0),
        ("Monday, 01-Jan-24 00:01:30 GMT", 90.0),
        ("Mon, 01 Jan 2024 01:01:30 +0100", 90.0),
        ("Sun, 31 Dec 2023 00:00:00 GMT", 0.0),
        ("", None),
        ("-5", None),
        ("+5", None),
        ("1e3", None),
        ("0x10", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("٣", None),
        ("2,", None),
        ("2, soon", None),
        ("9" * 10, None),
        ("9" * 400, None),
        ("Mon, 01 Jan 9999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999", None),
        ("Mon, 01 Jan 2024 00:00:00 -9999", None),
        ("Mon, 99 Jan 2024 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_followed_where_it_makes_sense(value: str, expected: float | None) -> None:
    assert retry_after({**DATE, "Retry-After": value}) == expected


def test_a_date_needs_the_answers_own_date() -> None:
    assert retry_after({"retry-after": "Mon, 01 Jan 2024 00:01:30 GMT"}) is None
    assert retry_after({"Date": "today", "retry-after": "Mon, 01 Jan 2024 00:01:30 GMT"}) is None


HEADER_TEXT = st.one_of(
    st.text(max_size=300),
    st.from_regex(r"[0-9., +-]{0,400}", fullmatch=True),
    st.from_regex(
        r"(Mon, )?[0-9]{1,3} Jan [0-9]{1,6} [0-9]{1,3}:[0-9]{1,3}:[0-9]{1,3} [+-]?[0-9A-Z]{1,20}", fullmatch=True
    ),
)


@given(value=HEADER_TEXT, date=HEADER_TEXT)
@example(value="9" * 400, date="")
@example(value="Mon, 01 Jan 2024 00:00:00 +99999999999999", date=DATE["Date"])
def test_no_retry_after_raises_and_each_is_a_time_to_wait(value: str, date: str) -> None:
    seconds = retry_after({"Retry-After": value, "Date": date})
    assert seconds is None or 0.0 <= seconds < 1e9


WORDS = st.one_of(
    st.text(max_size=40), st.sampled_from(sorted(CODES)), st.text(st.characters(categories=["Cs"]), max_size=3)
)
BODIES = st.one_of(
    st.none(),
    st.binary(max_size=200),
    st.builds(lambda code, message: json.dumps({"Error": {"Code": code, "Message": message}}).encode(), WORDS, WORDS),
    st.builds(lambda depth: b"[" * depth, st.sampled_from([10, 100_000])),
    st.builds(lambda depth: b'{"Error":' * depth, st.sampled_from([10, 100_000])),
    st.builds(lambda depth: b"<Error>" * depth, st.sampled_from([10, 10_000])),
    st.builds(
        lambda encoding: f'<?xml version="1.0" encoding="{encoding}"?><Error/>'.encode(),
        st.sampled_from(["utf-16", "x", "ebcdic-cp-be"]),
    ),
)
NAMES = st.sampled_from(
    ["x-oss-request-id", "Retry-After", "Date", "Content-Encoding", "Location", "Content-Type", "X"]
)


@given(
    operation=st.sampled_from(sorted(CALLS)),
    status=st.integers(100, 999),
    headers=st.dictionaries(NAMES, HEADER_TEXT),
    body=BODIES,
)
@example(operation="PutVectors", status=302, headers={"Location": "http://[::1"}, body=b"")
@example(operation="PutVectors", status=400, headers=REQUEST_ID, body=b'{"Error": {"Code": ' + b"9" * 5000 + b"}}")
def test_whatever_an_answer_holds_it_has_a_meaning(
    operation: str, status: int, headers: dict[str, str], body: bytes | None
) -> None:
    error = error_of(operation, Answer(status, headers, body))
    assert error is not None or status in CALLS[operation].accepted
    if error is not None:
        assert str(error) == clean(str(error), 1000)


def test_rights_debts_and_clocks_are_no_fault_of_the_key() -> None:
    """Another key of the same source would not help, and those in use may be good for other indexes."""
    codes = {code for code, about in CODES.items() if about is About.CREDENTIALS}
    of_the_key = {code for code in codes if is_of_the_key(code)}
    assert {"InvalidAccessKeyId", "SecurityTokenExpired", "SignatureDoesNotMatch", "ExpiredToken"} <= of_the_key
    assert not of_the_key & {"AccessDenied", "RequestTimeTooSkewed", "InDebt", "UserDisable"}
    assert is_of_the_key("")
