"""The error codes of the service: what each is about."""

import re
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from worker.words import CODE_CHARACTERS

# With these an answer blames what was sent. Which part of it, only the code says.
REFUSED_STATUSES: Final = frozenset({400, 413, 422})


class About(Enum):
    """What an error code of the service is about."""

    CONTENT = "content"  # the records, which will never be accepted as they are
    WAY = "way"  # this one request or its way, the same records may be accepted later
    LIMIT = "limit"  # too many requests
    CREDENTIALS = "credentials"
    TARGET = "target"  # region, endpoint, bucket, index


# The codes that come with 400, 413 and 422, and those that mean the same under any status below 500. A code that is not here
# is unknown. Sources: "HTTP status code 400", "HTTP status code 403" and "Error responses" of the OSS documentation, the
# error codes of PutVectors and DeleteVectors, and the STS and gateway codes that Alibaba Cloud's services share.
CODES: Final[Mapping[str, About]] = MappingProxyType(
    dict.fromkeys(
        (
            "EntityTooLarge",
            "EntityTooSmall",
            "FieldItemTooLong",
            "InvalidArgument",
            "InvalidParameter",
            "MalformedJson",
            "MalformedJSON",
            "MetadataTooLarge",
            "MissingArgument",
            "MissingParameter",
            "VectorIndexParameterInvalid",
        ),
        About.CONTENT,
    )
    | dict.fromkeys(
        (
            "BadDigest",
            "BadRequest",
            "IncompleteBody",
            "InternalError",
            "InvalidDigest",
            "InvalidURI",
            "MalformedHeader",
            "MissingContentLength",
            "MissingContentType",
            "NotImplemented",
            "OperationAborted",
            "RequestIsNotMultiPartContent",
            "RequestTimeout",
            "ServiceUnavailable",
            "UnexpectedContent",
        ),
        About.WAY,
    )
    | dict.fromkeys(
        (
            "ActiveRequestLimitExceeded",
            "DownloadTrafficRateLimitExceeded",
            "QpsLimitExceeded",
            "RequestRateExceeded",
            "SlowDown",
            "Throttling",
            "Throttling.Api",
            "Throttling.User",
            "TooManyRequests",
            "TotalQpsLimitExceeded",
            "UploadTrafficRateLimitExceeded",
        ),
        About.LIMIT,
    )
    | dict.fromkeys(
        (
            "AccessDenied",
            "AccessKeyIdAndSecurityTokenNotMatch",
            "AuthorizationHeaderMalformed",
            "AuthorizationQueryParametersError",
            "ExpiredToken",
            "IllegalTimestamp",
            "InDebt",
            "InDebtOverdue",
            "IncompleteSignature",
            "InsufficientBalance",
            "InvalidAccessKeyId",
            "InvalidAccessKeyId.Inactive",
            "InvalidAccessKeyId.NotFound",
            "InvalidAuthorization",
            "InvalidSecurityToken",
            "InvalidSecurityToken.Expired",
            "InvalidToken",
            "MissingSecurityHeader",
            "MissingSecurityToken",
            "RequestExpired",
            "RequestTimeTooSkewed",
            "SecurityTokenExpired",
            "SecurityTokenNotSupported",
            "SignatureDoesNotMatch",
            "TokenRefreshRequired",
            "UserDisable",
        ),
        About.CREDENTIALS,
    )
    | dict.fromkeys(
        (
            "AbnormalBucketOwnerStatus",
            "BucketDisable",
            "BucketNotBelongTo",
            "CnameDenied",
            "IllegalLocationConstraintException",
            "IncorrectEndpoint",
            "InvalidBucketName",
            "InvalidEndpoint",
            "InvalidHost",
            "InvalidLocationConstraint",
            "InvalidRegion",
            "InvalidTargetRegion",
            "NoSuchBucket",
            "NoSuchVectorBucket",
            "NoSuchVectorIndex",
            "SecondLevelDomainForbidden",
        ),
        About.TARGET,
    )
)

# Of codes that are not above, what their words are about. The first that is found in a code counts.
_WORDS: Final = (
    (re.compile("Throttling|(?:Qps|Rate|Request|Traffic)Limit"), About.LIMIT),
    (
        re.compile(
            "SecurityToken|TokenExpired|ExpiredToken|InvalidToken|Credential|Signature|AccessKey|Authoriz|Authentic"
        ),
        About.CREDENTIALS,
    ),
    # VectorBucketIndex... may be about what is put into an index.
    (re.compile(r"Region|Bucket(?!Index|\w*TooLarge)|Endpoint"), About.TARGET),
)


_AUTH: Final = "0002"
# The groups of EC that are about who asks, whatever is sent. Those of buckets, objects and requests may also be about what is
# sent, and that of the vector operations is not documented.
_GROUPS: Final[Mapping[str, About]] = MappingProxyType({_AUTH: About.CREDENTIALS, "0003": About.CREDENTIALS})
_MESSAGE_CHARACTERS: Final = 1000
# "Invalid signing region in Authorization header.", "Invalid signing product in Authorization header."
_OF_THE_TARGET: Final = re.compile(r"\b(?:region|product)\b", re.IGNORECASE)
_OF_THE_CALLER: Final = re.compile(r"Authorization|Credential|\bsign(?:ing|ature|ed)|\bsecurity.token", re.IGNORECASE)


def about_of(code: str, status: int, message: str = "", ec: str = "") -> About | None:
    """Return what an error of the service is about, None if that is not known. The status says the rest of most.

    With 400, 413 and 422 a code about content alone blames no record: `InvalidArgument` is also what OSS answers to a region or
    a signature that it refuses. `ec` says more, the finer code that OSS gives besides (the element EC, the header x-oss-ec).
    Its first four digits are a group: "EC error codes" of the OSS documentation lists 02-AUTH, 03-ACCESS_CONTROL and others.
    "Error responses" says that an EC may change, so it is believed where it speaks for the records, and never against them.
    Without an EC the message is looked at. It may quote a record, so it makes the code an unknown one, which blocks nothing.
    """
    about = _of_code(code, status)
    if about not in (None, About.CONTENT) or status not in REFUSED_STATUSES:
        return about
    message = message[:_MESSAGE_CHARACTERS]
    group, has_number, _ = ec.partition("-")
    if not has_number:
        return None if _OF_THE_CALLER.search(message) else about
    if group == _AUTH and _OF_THE_TARGET.search(message):
        return About.TARGET
    return _GROUPS.get(group, about)


def _of_code(code: str, status: int) -> About | None:
    if code in CODES:
        return CODES[code]
    about = next((about for words, about in _WORDS if words.search(code[:CODE_CHARACTERS])), None)
    return about if about is About.LIMIT or status in REFUSED_STATUSES else None


# What other credentials of the same account do not change: rights, debts, the machine's clock.
_NOT_OF_THE_KEY: Final = frozenset(
    (
        "AccessDenied",
        "IllegalTimestamp",
        "InDebt",
        "InDebtOverdue",
        "InsufficientBalance",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "UserDisable",
    )
)


def is_of_the_key(code: str) -> bool:
    """Return whether other credentials may help against an error that is about credentials; so also where it has no code."""
    return code not in _NOT_OF_THE_KEY
